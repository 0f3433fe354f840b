"""Jobs that are slow or stand still, or lose a rank."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext

from faults.job import Job
from faults.scenario import Bar, Ending, Lane, Scenario
from support.relay import Relay

COMPUTE = 0.03
"""Seconds a step where timing is judged: far above what two busy cores do to a process."""


def slow_compute(job: Job) -> None:
    """Compute takes longer on the ranks at fault."""
    training = job.training()
    usual = training.compute_seconds
    for step in training.iterate():
        training.compute_seconds = usual * (job.options["factor"] if job.is_bad(step) else 1.0)
        training.train(step)
    training.close()


def slow_input(job: Job) -> None:
    """The next batch is late on the ranks at fault."""
    training = job.training()
    for step in training.iterate():
        if job.is_bad(step):
            time.sleep(training.compute_seconds * job.options["share"])
        training.train(step)
    training.close()


def slow_after_step(job: Job) -> None:
    """A rank does something of its own after every backward."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        if job.is_bad(step):
            time.sleep(training.compute_seconds * job.options["share"])
        training.finish(loss)
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


def hang_in_branch(job: Job) -> None:
    """A rank takes a branch of its own, in which it waits for a file instead of joining the all-reduce."""
    training = job.training()
    for step in training.iterate():
        skips = step == job.at and job.is_culprit
        with training.model.no_sync() if skips else nullcontext():
            loss = training.backward(step)
        if skips:
            while not (job.folder / "never").exists():
                time.sleep(0.2)
        training.finish(loss)


def hang_in_deadlock(job: Job) -> None:
    """A rank's logging takes a lock that it holds already."""
    training = job.training()
    lock = threading.Lock()
    for step in training.iterate():
        training.train(step)
        if step + 1 == job.at and job.is_culprit:
            with lock:
                lock.acquire()


def killed(job: Job) -> None:
    """A rank is killed for memory; the others' all-reduce fails at once, and they end with an exception."""
    training = job.training()
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            os.kill(os.getpid(), signal.SIGKILL)
        training.train(step)


def killed_others_wait(job: Job) -> None:
    """The same, but the others wait, as they do where the network does not tell them."""
    training = job.training()
    try:
        for step in training.iterate():
            if step == job.at and job.is_culprit:
                os.kill(os.getpid(), signal.SIGKILL)
            training.train(step)
    except RuntimeError:
        read_for_ever()


def silent_agent(job: Job) -> None:
    """One rank's way to the detector ends, and its training goes on."""
    if not job.is_culprit:
        training = job.training()
    else:
        relay = Relay(job.endpoint)
        training = job.training(endpoint=relay.endpoint)
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            relay.close()
        training.train(step)
    training.close()


def _straggler(name: str, says: str, **fields: object) -> Scenario:
    defaults = {
        "kind": "straggler",
        "at": 60,
        "culprits": (1,),
        "ranks": (2, 3, 4),
        "steps": 240,
        "compute_seconds": COMPUTE,
        "lane": Lane.ALONE,
    }
    return Scenario(name=f"progress/{name}", says=says, **{**defaults, **fields})  # type: ignore[arg-type]


def _standing(name: str, says: str, **fields: object) -> Scenario:
    defaults = {
        "kind": "hang",
        "at": 60,
        "culprits": (1,),
        "ranks": (2, 3, 4),
        "steps": 100,
        "lane": Lane.IDLE,
        "ending": Ending.KILLED,
        "patience_seconds": 90.0,
    }
    return Scenario(name=f"progress/{name}", says=says, **{**defaults, **fields})  # type: ignore[arg-type]


SCENARIOS = (
    _straggler(
        "slow-compute-50",
        "compute takes 50 % longer on one rank",
        train=slow_compute,
        options={"factor": 1.5},
    ),
    _straggler(
        "slow-compute-30",
        "compute takes 30 % longer on one rank",
        train=slow_compute,
        options={"factor": 1.3},
    ),
    _straggler(
        "slow-compute-30-from-start",
        "compute takes 30 % longer on one rank from the start, in a GPT",
        train=slow_compute,
        options={"factor": 1.3},
        at=0,
        steps=180,
        task="gpt",
        ranks=(4,),
    ),
    _straggler(
        "slow-input-50",
        "one rank's data comes late by half a step",
        train=slow_input,
        options={"share": 0.5},
    ),
    _straggler(
        "slow-input-30",
        "one rank's data comes late by 30 % of a step",
        train=slow_input,
        options={"share": 0.3},
        ranks=(2, 4),
    ),
    _straggler(
        "slow-after-backward",
        "one rank writes something for half a step between backward and optimizer",
        train=slow_after_step,
        options={"share": 0.5},
        ranks=(2, 4),
    ),
    Scenario(
        name="progress/input-bound",
        says="all ranks wait for data three quarters of the time",
        train=slow_input,
        kind="input_bound",
        options={"share": 3.0},
        steps=240,
        compute_seconds=0.006,
        lane=Lane.ALONE,
    ),
    Scenario(
        name="progress/all-slower",
        says="compute takes 60 % longer on all ranks from a step on",
        train=slow_compute,
        kind="throughput_regression",
        options={"factor": 1.6},
        at=150,
        steps=450,
        compute_seconds=0.015,
        lane=Lane.ALONE,
    ),
    _standing("hang-in-input", "one rank never gets its next batch", train=hang_in_input),
    _standing(
        "hang-in-branch",
        "one rank takes a branch of its own and never issues its all-reduce",
        train=hang_in_branch,
    ),
    _standing(
        "hang-in-deadlock", "one rank waits for a lock that it holds", train=hang_in_deadlock, ranks=(2, 4)
    ),
    _standing(
        "killed",
        "one rank is killed, the others end with an exception",
        train=killed,
        kind="rank_lost",
        ranks=(3, 4),
    ),
    _standing(
        "killed-others-wait",
        "one rank is killed, the others wait",
        train=killed_others_wait,
        kind="rank_lost",
    ),
    _standing(
        "silent-agent",
        "one rank's connection to the detector ends, training goes on",
        train=silent_agent,
        kind="rank_lost",
        steps=900,
        compute_seconds=0.05,
        # The service waits 15 s for it to come back; which step that is depends on the machine.
        bar=Bar(delay_seconds=45.0),
    ),
)
