"""Jobs that are slow or stand still."""

from __future__ import annotations

import time

from faults.job import Job
from faults.scenario import Ending, Lane, Scenario


def slow_compute(job: Job) -> None:
    """A rank's compute takes longer."""
    training = job.training()
    usual = training.compute_seconds
    for step in training.iterate():
        training.compute_seconds = usual * (job.options["factor"] if job.is_bad(step) else 1.0)
        training.train(step)
    training.close()


def read_for_ever() -> None:
    """A data source that never answers."""
    time.sleep(3600)


def hang_in_input(job: Job) -> None:
    """A rank never gets its next batch."""
    training = job.training()
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            read_for_ever()
        training.train(step)


SCENARIOS = (
    Scenario(
        name="progress/slow-compute-50",
        says="compute takes 50 % longer on one rank",
        train=slow_compute,
        kind="straggler",
        options={"factor": 1.5},
        at=60,
        culprits=(1,),
        steps=260,
        compute_seconds=0.03,
        lane=Lane.ALONE,
    ),
    Scenario(
        name="progress/hang-in-input",
        says="one rank never gets its next batch",
        train=hang_in_input,
        kind="hang",
        at=60,
        culprits=(1,),
        steps=100,
        lane=Lane.IDLE,
        ending=Ending.KILLED,
        patience_seconds=90.0,
    ),
)
