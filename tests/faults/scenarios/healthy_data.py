"""Healthy trainings whose data are uneven, short or imbalanced, and such with restarts and business of their own."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job
from faults.tasks import TASKS, Batch, Branching, make_optimizer


def _model(job: Job) -> nn.Module:
    job.seed_model()
    return TASKS[job.case.scenario.task].model()


class _Dropped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.model(functional.dropout(inputs, 0.2, self.training))


def dropout(job: Job) -> None:
    """Random numbers differ across ranks, as they should."""
    model = _Dropped(_model(job))
    torch.manual_seed(1000 + job.rank)
    job.training(model=model).run()


def branch(job: Job) -> None:
    """A branch that ranks take in turn, with find_unused_parameters."""
    job.seed_model()
    model = Branching(job.case.scenario.task)
    training = job.training(model=model, ddp={"find_unused_parameters": True})
    for step in training.iterate():
        training.module.branch = (step + job.rank) % job.world_size != 0
        training.train(step)
    training.close()


def variable_batches(job: Job) -> None:
    """Batches vary from step to step and rank to rank, with the same mean."""
    training = job.training()
    for step in training.iterate():
        samples = int(torch.randint(8, 25, (1,), generator=job.generator(step + (1 << 20))))
        training.finish(training.backward(step, batch=training.batch(step, samples=samples)), samples)
    training.close()


def short_last_batches(job: Job) -> None:
    """The last batch of every epoch of 25 steps is smaller, on one rank more than on the others."""
    training = job.training(dataset_size=(24 * 16 + 5) * job.world_size)
    for step in training.iterate():
        last = step % 25 == 24
        samples = (3 if job.rank == job.world_size - 1 else 6) if last else 16
        training.finish(training.backward(step, batch=training.batch(step, samples=samples)), samples)
    training.close()


def one_batch_an_epoch(job: Job) -> None:
    """The whole data set is one batch a rank."""
    training = job.training(dataset_size=16 * job.world_size)
    for step in training.iterate():
        training.finish(training.backward(step, batch=training.batch(0)))
    training.close()


def shuffled_epochs(job: Job) -> None:
    """A DataLoader with workers and a DistributedSampler that is told every epoch."""
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    samples, size = 16, 16 * 20 * job.world_size
    task = TASKS[job.case.scenario.task]
    inputs, target = task.batch(torch.Generator().manual_seed(job.case.seed), size)
    dataset = TensorDataset(inputs, target)
    sampler: DistributedSampler[Batch] = DistributedSampler(dataset, seed=job.case.seed)
    loader = DataLoader(dataset, samples, sampler=sampler, num_workers=1, persistent_workers=True)
    training = job.training(dataset_size=size)
    step = 0
    while step < job.steps:
        sampler.set_epoch(step // len(loader))
        for batch in loader:
            training.finish(training.backward(step, batch=batch))
            step += 1
    training.close()


def imbalanced(job: Job) -> None:
    """Nine of ten samples are of one class, on every rank."""
    training = job.training()
    for step in training.iterate():
        images, classes = training.batch(step, samples=64)
        rare = torch.rand(64, generator=job.generator(step + (1 << 20))) < 0.1
        chosen = torch.argsort(((classes == 0) | rare).int(), descending=True, stable=True)[:16]
        training.finish(training.backward(step, batch=(images[chosen], classes[chosen])))
    training.close()


def uneven_lengths(job: Job) -> None:
    """Sequences vary in length, so every step some other rank is the slow one."""
    training = job.training()
    usual = training.compute_seconds
    for step in training.iterate():
        spread = torch.randn(1, generator=job.generator(step + (1 << 20)))
        training.compute_seconds = usual * float(torch.exp(0.3 * spread))
        training.train(step)
    training.close()


def restarted(job: Job) -> None:
    """Goes on from a checkpoint with as many ranks as before, or with others and everything scaled as it should be."""
    training = job.training()
    samples = job.options.get("samples", (training.samples, training.samples))
    training.samples = samples[job.attempt]
    training.set_learning_rate(training.learning_rate * job.options.get("rates", (1.0, 1.0))[job.attempt])
    until = 80 if job.attempt == 0 else job.steps
    for step in training.iterate(until):
        training.train(step)
    training.save(until)
    training.close()


def metrics(job: Job) -> None:
    """Collectives of the script's own between steps, and rank 0 alone writes a line now and then."""
    training = job.training()
    for step in training.iterate():
        training.train(step)
        if step % 10 == 9:
            value = torch.tensor([float(step)])
            dist.all_reduce(value)
            if job.rank == 0:
                (job.folder / "metrics.txt").write_text(f"{step} {float(value)}\n")
    training.close()


def two_optimizers(job: Job) -> None:
    """Two optimizers, each for a part of the model."""
    model = DistributedDataParallel(_model(job))
    parameters = list(model.parameters())
    first = make_optimizer("adamw", parameters[:2], 1e-3)
    second = make_optimizer("sgd", parameters[2:], 0.02)
    training = job.training(model=model, optimizer=first)
    for step in training.iterate():
        loss = training.backward(step)
        second.step()
        second.zero_grad()
        training.finish(loss)
    training.close()
