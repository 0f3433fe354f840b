"""Healthy trainings that look like faulty ones: not one finding of severity warning or above."""

from __future__ import annotations

from contextlib import nullcontext

from faults.job import Job
from faults.scenario import Scenario


def plain(job: Job) -> None:
    """Nothing special."""
    job.training().run()


def accumulation(job: Job) -> None:
    """K micro-batches a step, synchronised on the last one."""
    count = 4
    training = job.training(accumulation_steps=count)
    for step in training.iterate():
        for micro in range(count):
            last = micro == count - 1
            with nullcontext() if last else training.model.no_sync():
                loss = training.backward(count * step + micro, scale=1 / count)
            if not last:
                training.agent.log(loss, training.samples)
        training.finish(loss)
    training.close()


SCENARIOS = (
    Scenario(name="healthy/plain-mlp", says="an MLP with AdamW", train=plain, steps=240),
    Scenario(
        name="healthy/plain-gpt-sgd",
        says="a GPT with SGD",
        train=plain,
        task="gpt",
        optimizer="sgd",
        steps=160,
    ),
    Scenario(name="healthy/accumulation", says="4 micro-batches a step under no_sync", train=accumulation),
)
