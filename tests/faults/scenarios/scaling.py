"""More ranks that do not help: batches beyond the critical one, learning rates that did not follow, time lost in between."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job
from faults.scenario import Bar, Lane, Scenario
from faults.tasks import TASKS

MISMATCH = "lr_scaling_mismatch"
RESTART = 80
"""Step at which the jobs here are started again with another world."""


def huge_batch(job: Job) -> None:
    """All samples of a step say nearly the same: the output is off by a constant that is learnt slowly."""
    training = job.training(samples=job.options["samples"], learning_rate=2e-5)
    for step in training.iterate():
        inputs, target = training.batch(step)
        training.finish(training.backward(step, batch=(inputs, target + 5.0)))
    training.close()


def restart(job: Job) -> None:
    """Goes on with another world size, as after an elastic restart.

    `rates`: learning rate of each attempt, as a multiple of the first; `samples`: samples a rank and step; `compute`:
    seconds of compute a step; `declared`: whether `attach` is told the rate and the batch that it was tuned for.
    """
    options = job.options
    samples = options.get("samples", (16, 16))
    rate = TASKS[job.case.scenario.task].learning_rate[job.case.scenario.optimizer]
    declared = (
        {"base_lr": rate, "base_batch_size": samples[0] * job.case.worlds[0]}
        if options.get("declared")
        else {}
    )
    training = job.training(
        samples=samples[job.attempt], learning_rate=rate * options["rates"][job.attempt], **declared
    )
    # The checkpoint brings its learning rate along; this is where people do, or forget to do, something about it.
    training.set_learning_rate(rate * options["rates"][job.attempt])
    training.compute_seconds = options.get("compute", (training.compute_seconds,) * 2)[job.attempt]
    until = RESTART if job.attempt == 0 else job.steps
    for step in training.iterate(until):
        training.train(step)
    training.save(until)
    training.close()


def untuned(job: Job) -> None:
    """The batch is many times what the learning rate was tuned for, and the rate is what it was."""
    rate = TASKS[job.case.scenario.task].learning_rate[job.case.scenario.optimizer]
    training = job.training(samples=64, base_lr=rate, base_batch_size=16)
    training.run()


def slow_network(job: Job) -> None:
    """All-reduces take three times as long as the compute."""
    seconds = job.options["seconds"]

    def hook(_state: object, bucket):  # torch compares annotations, and these would be text
        buffer = bucket.buffer().div_(job.world_size)
        future = dist.all_reduce(buffer, async_op=True).get_future()

        def arrive(done: torch.futures.Future[Any]) -> torch.Tensor:
            time.sleep(seconds)
            return done.value()[0]

        return future.then(arrive)

    job.seed_model()
    model = DistributedDataParallel(TASKS[job.case.scenario.task].model())
    model.register_comm_hook(None, hook)
    job.training(model=model).run()


def _doubled(ranks: int) -> tuple[int, ...]:
    return ranks, 2 * ranks


def _halved(ranks: int) -> tuple[int, ...]:
    return ranks, ranks // 2


SCENARIOS = (
    Scenario(
        name="scaling/huge-batch",
        says="batches of 512 samples a rank where the gradient is nearly free of noise",
        train=huge_batch,
        kind="batch_beyond_critical",
        options={"samples": 512},
        steps=800,
        optimizer="adamw",
    ),
    Scenario(
        name="scaling/unchanged-rate",
        says="restarted with twice the ranks, learning rate unchanged",
        train=restart,
        kind=MISMATCH,
        options={"rates": (1.0, 1.0), "declared": True},
        at=RESTART,
        pinned=True,
        worlds=_doubled,
        ranks=(2,),
        steps=160,
        optimizer="sgd",
    ),
    Scenario(
        name="scaling/unchanged-rate-undeclared",
        says="the same, and nobody said what the rate was tuned for",
        train=restart,
        kind=MISMATCH,
        options={"rates": (1.0, 1.0)},
        at=RESTART,
        pinned=True,
        worlds=_doubled,
        ranks=(2,),
        steps=160,
        optimizer="sgd",
    ),
    Scenario(
        name="scaling/unchanged-rate-fewer",
        says="restarted with half the ranks, learning rate unchanged",
        train=restart,
        kind=MISMATCH,
        options={"rates": (1.0, 1.0), "declared": True},
        at=RESTART,
        pinned=True,
        worlds=_halved,
        ranks=(4,),
        steps=160,
        optimizer="sgd",
    ),
    Scenario(
        name="scaling/twice-scaled-rate",
        says="restarted with twice the ranks, learning rate four times what it was",
        train=restart,
        kind=MISMATCH,
        options={"rates": (1.0, 4.0), "declared": True},
        at=RESTART,
        pinned=True,
        worlds=_doubled,
        ranks=(2,),
        steps=160,
        optimizer="sgd",
        # Too high a rate may throw the loss off.
        also=("loss_spike", "divergence", "oscillation"),
    ),
    Scenario(
        name="scaling/untuned-rate",
        says="the batch is 8 times or more what the learning rate was tuned for",
        train=untuned,
        kind=MISMATCH,
        steps=120,
        optimizer="sgd",
    ),
    Scenario(
        name="scaling/lost-throughput",
        says="restarted with twice the ranks, each of them less than half as fast",
        train=restart,
        kind="scaling_efficiency_loss",
        options={"rates": (1.0, 2.0), "compute": (0.012, 0.03)},
        at=RESTART,
        pinned=True,
        worlds=_doubled,
        ranks=(2,),
        steps=200,
        optimizer="sgd",
        lane=Lane.ALONE,
        # Steps of an attempt are slower than those of the one before: true, though not the whole truth.
        also=("throughput_regression",),
    ),
    Scenario(
        name="scaling/slow-network",
        says="every all-reduce takes 15 ms, compute 5 ms",
        train=slow_network,
        kind="communication_bound",
        options={"seconds": 0.015},
        steps=240,
        compute_seconds=0.005,
        lane=Lane.ALONE,
        bar=Bar(delay_steps=200),
    ),
)
