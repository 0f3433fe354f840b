"""Replicas that are not kept together: gradients that are not averaged, parameters that differ."""

from __future__ import annotations

import torch

from faults.job import Job
from faults.scenario import Scenario

MISSING = "missing_gradient_sync"
DESYNC = "replica_desync"


def bypass(job: Job) -> None:
    """All ranks call the module inside DDP."""
    training = job.training()
    for step in training.iterate():
        model = training.module if job.is_bad(step) else training.model
        training.finish(training.backward(step, model=model))
    training.close()


def flip_bit(job: Job) -> None:
    """One bit of one weight, as faulty hardware does."""
    training = job.training()
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            with torch.no_grad():
                weight = next(training.model.parameters())
                weight.view(-1).view(torch.int32)[5] ^= 1 << 12
        training.train(step)
    training.close()


SCENARIOS = (
    Scenario(
        name="sync/bypass-from-start",
        says="every forward calls the module inside DDP",
        train=bypass,
        kind=MISSING,
        steps=40,
    ),
    Scenario(
        name="sync/bypass-later",
        says="the forward calls the module inside DDP from a step on",
        train=bypass,
        kind=MISSING,
        at=40,
        steps=80,
    ),
    Scenario(
        name="sync/bit-flip",
        says="one bit of one weight flips on one rank",
        train=flip_bit,
        kind=DESYNC,
        at=43,
        culprits=(1,),
        ranks=(2, 3, 4),
        steps=90,
    ),
)
