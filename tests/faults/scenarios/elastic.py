"""Jobs that torchrun itself restarts: with a worker killed, and with a node gone."""

from __future__ import annotations

import os
import signal

from faults.job import Job
from faults.scenario import Lane, Scenario

CHECKPOINT_EVERY = 20
LOST_AT = 67
RESUMES_AT = LOST_AT - LOST_AT % CHECKPOINT_EVERY


def elastic(job: Job) -> None:
    """Trains with a checkpoint now and then. In the first attempt the last rank dies, alone or with its whole node.

    `rate_follows`: whether the learning rate is scaled with the number of ranks.
    """
    options = job.options
    training = job.training()
    factor = job.world_size / job.case.ranks if options["rate_follows"] else 1.0
    training.set_learning_rate(training.learning_rate * factor)
    for step in training.iterate():
        if step % CHECKPOINT_EVERY == 0 and step > training.first_step:
            training.save(step)
        if step == LOST_AT and job.attempt == 0 and job.rank == job.world_size - 1:
            if options["with_node"]:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        training.train(step)
    training.close()


def _elastic(name: str, says: str, **fields: object) -> Scenario:
    defaults = {
        "train": elastic,
        "optimizer": "sgd",
        "steps": 200,
        # The rank that died was lost, until its attempt was over.
        "also": ("rank_lost",),
        "patience_seconds": 120.0,
        "lane": Lane.SHARED,
    }
    return Scenario(name=f"elastic/{name}", says=says, **{**defaults, **fields})  # type: ignore[arg-type]


SCENARIOS = (
    _elastic(
        "worker-killed",
        "a worker is killed, and torchrun restarts all of them from a checkpoint",
        options={"rate_follows": True, "with_node": False},
        nodes=1,
        ranks=(2, 3),
    ),
    _elastic(
        "node-lost",
        "one of two nodes is lost, the job goes on with half the ranks and half the learning rate",
        options={"rate_follows": True, "with_node": True},
        nodes=2,
        ranks=(4,),
    ),
    _elastic(
        "node-lost-rate-unchanged",
        "one of two nodes is lost, the job goes on with half the ranks and the same learning rate",
        options={"rate_follows": False, "with_node": True},
        kind="lr_scaling_mismatch",
        at=RESUMES_AT,
        pinned=True,
        nodes=2,
        ranks=(4,),
    ),
)
