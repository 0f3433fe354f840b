"""What ranks train on: the same samples, unequal numbers of them, undivided sums, a bad shard."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from faults.job import Job
from faults.scenario import Scenario
from faults.tasks import TASKS, Batch

DUPLICATE = "duplicate_shards"
ACCUMULATION = "accumulation_mismatch"
OUTLIER = "rank_outlier"
# A gradient that grows at once by a multiple throws the loss off.
THROWN = ("loss_spike", "divergence", "oscillation")


def same_samples(job: Job) -> None:
    """The ranks at fault, or all, draw what the first of them draws."""
    training = job.training()
    source = min(job.case.culprits, default=0)
    for step in training.iterate():
        rank = source if job.is_bad(step) else job.rank
        training.finish(training.backward(step, batch=training.batch(step, rank=rank)))
    training.close()


def repeated_order(job: Job) -> None:
    """The sampler is never told the epoch: every epoch has the same order."""
    epoch = job.options["epoch_steps"]
    training = job.training(dataset_size=epoch * TASKS[job.case.scenario.task].samples * job.world_size)
    for step in training.iterate():
        training.finish(training.backward(step, batch=training.batch(step % epoch)))
    training.close()


def uneven(job: Job) -> None:
    """One rank contributes 2 samples where the others contribute 8, and is averaged as their equal."""
    training = job.training(samples=8)
    for step in training.iterate():
        samples = 2 if job.is_bad(step) else 8
        training.finish(training.backward(step, batch=training.batch(step, samples=samples)), samples)
    training.close()


def accumulate(job: Job) -> None:
    """Micro-batches under no_sync, weighted as the options say.

    `declared`: what `attach` is told. `before` and `after` the fault begins: micro-batches a step, and the factor of each
    loss. `synchronised`: whether every micro-batch is.
    """
    options = job.options
    training = job.training(accumulation_steps=options.get("declared"))
    for step in training.iterate():
        count, scale = options["after"] if step >= job.at else options["before"]
        for micro in range(count):
            last = micro == count - 1
            joined = last or (options.get("synchronised", False) and step >= job.at)
            with nullcontext() if joined else training.model.no_sync():
                loss = training.backward(8 * step + micro, scale=scale)
            if not last:
                training.agent.log(loss, training.samples)
        training.finish(loss)
    training.close()


def wrong_labels(job: Job) -> None:
    """One rank's targets belong to other samples."""
    training = job.training()
    for step in training.iterate():
        inputs, target = training.batch(step)
        if job.is_bad(step):
            target = target[torch.randperm(len(target), generator=job.generator(step))]
        training.finish(training.backward(step, batch=(inputs, target)))
    training.close()


def bad_shard(job: Job) -> None:
    """One rank's inputs are noise."""
    training = job.training()

    def batch(step: int) -> Batch:
        inputs, target = training.batch(step)
        if job.is_bad(step) and inputs.is_floating_point():
            inputs = torch.randn(inputs.shape, generator=job.generator(step)) * 2
        elif job.is_bad(step):
            inputs = torch.randint(0, int(inputs.max()) + 1, inputs.shape, generator=job.generator(step))
        return inputs, target

    for step in training.iterate():
        training.finish(training.backward(step, batch=batch(step)))
    training.close()


def inflated_gradient(job: Job) -> None:
    """One rank's gradient is far too large before it is averaged, as after silent corruption: all take the same wrong step."""
    training = job.training()
    for step in training.iterate():
        training.finish(training.backward(step, scale=20.0 if job.is_bad(step) else 1.0))
    training.close()


SCENARIOS = (
    Scenario(
        name="data/same-on-all",
        says="all ranks train on the same samples: no DistributedSampler",
        train=same_samples,
        kind=DUPLICATE,
        steps=120,
    ),
    Scenario(
        name="data/same-on-all-later-lstm",
        says="all ranks train on the same samples from a step on, in an LSTM with SGD",
        train=same_samples,
        kind=DUPLICATE,
        at=60,
        steps=160,
        task="lstm",
        optimizer="sgd",
        ranks=(2, 3),
    ),
    Scenario(
        name="data/same-on-two",
        says="two of four ranks train on the same samples",
        train=same_samples,
        kind=DUPLICATE,
        culprits=(1, 3),
        steps=120,
        ranks=(4,),
    ),
    Scenario(
        name="data/repeated-order",
        says="set_epoch is forgotten: every epoch of 20 steps has the same order",
        train=repeated_order,
        kind="repeated_order",
        options={"epoch_steps": 20},
        at=20,
        pinned=True,
        steps=160,
    ),
    Scenario(
        name="data/repeated-order-gpt",
        says="the same in a GPT, epochs of 30 steps",
        train=repeated_order,
        kind="repeated_order",
        options={"epoch_steps": 30},
        at=30,
        pinned=True,
        steps=180,
        task="gpt",
        ranks=(2,),
    ),
    Scenario(
        name="data/uneven-from-start",
        says="one rank has 2 samples a step where the others have 8",
        train=uneven,
        kind="uneven_batches",
        culprits=(1,),
        steps=120,
    ),
    Scenario(
        name="data/uneven-later-cnn",
        says="the same from a step on, in a CNN with SGD",
        train=uneven,
        kind="uneven_batches",
        at=60,
        culprits=(2,),
        steps=160,
        task="cnn",
        optimizer="sgd",
        ranks=(3, 4),
    ),
    Scenario(
        name="data/undivided-accumulation",
        says="accumulation over 4 micro-batches begins, and the loss is not divided by 4",
        train=accumulate,
        kind=ACCUMULATION,
        options={"before": (1, 1.0), "after": (4, 1.0)},
        at=160,
        steps=400,
        optimizer="sgd",
        also=THROWN,
    ),
    Scenario(
        name="data/undivided-accumulation-declared",
        says="4 micro-batches as declared, and from a step on the loss is not divided by 4",
        train=accumulate,
        kind=ACCUMULATION,
        options={"declared": 4, "before": (4, 0.25), "after": (4, 1.0)},
        at=160,
        steps=400,
        also=THROWN,
    ),
    Scenario(
        name="data/twice-divided-accumulation",
        says="accumulation over 4 micro-batches begins, and the loss is divided twice",
        train=accumulate,
        kind=ACCUMULATION,
        options={"before": (1, 1.0), "after": (4, 1 / 16)},
        at=60,
        steps=140,
    ),
    Scenario(
        name="data/fewer-micro-batches",
        says="8 micro-batches are declared, 2 are made",
        train=accumulate,
        kind=ACCUMULATION,
        options={"declared": 8, "before": (2, 0.5), "after": (2, 0.5)},
        steps=80,
    ),
    Scenario(
        name="data/synchronised-micro-batches",
        says="every one of 4 micro-batches is averaged, though only the last one has to be",
        train=accumulate,
        kind=ACCUMULATION,
        options={"declared": 4, "before": (4, 0.25), "after": (4, 0.25), "synchronised": True},
        steps=80,
    ),
    Scenario(
        name="data/wrong-labels",
        says="one rank's labels belong to other samples",
        train=wrong_labels,
        kind=OUTLIER,
        at=60,
        culprits=(1,),
        steps=220,
    ),
    Scenario(
        name="data/bad-shard-cnn",
        says="one rank's images are noise from the start",
        train=bad_shard,
        kind=OUTLIER,
        culprits=(2,),
        steps=200,
        task="cnn",
        ranks=(3, 4),
    ),
    Scenario(
        name="data/bad-shard-gpt",
        says="one rank reads random characters from a step on",
        train=bad_shard,
        kind=OUTLIER,
        at=60,
        culprits=(1,),
        steps=200,
        task="gpt",
        ranks=(4,),
    ),
    Scenario(
        name="data/inflated-gradient",
        says="one rank's gradient is 20 times too large before it is averaged",
        train=inflated_gradient,
        kind=OUTLIER,
        at=160,
        culprits=(1,),
        steps=480,
        also=THROWN,
    ),
)
