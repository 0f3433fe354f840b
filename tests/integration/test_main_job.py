"""The main job, with everything real: torchrun and gloo, the agent, gRPC, Ray, SQLite, HTTP."""

from __future__ import annotations

import itertools
import statistics

import pytest

from support.job import Job
from support.service import Service
from support.waiting import wait_until

RUN = "outage"


def finding(service: Service, kind: str, status: str = "all") -> dict | None:
    """The run's finding of this kind, if there is one."""
    answer = service.get(f"/api/v1/runs/{RUN}/findings?status={status}")
    return next((each for each in answer["findings"] if each["kind"] == kind), None)


def step(service: Service) -> int:
    """How far the run has come; -1 before the service knows it."""
    runs = service.get("/api/v1/runs")["runs"]
    return next((run["step"] for run in runs if run["run"] == RUN), -1)


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_killed_detector_costs_training_nothing_and_loses_no_step(tmp_path):
    """Killed with SIGKILL in mid-run and started again: no pause, no step lost or doubled, the finding still open."""
    # Longer than a detector takes to start on a slow machine.
    steps = 1800
    with Service(tmp_path / "data") as service:
        arguments = ("--steps", str(steps), "--bypass", f"1:60:{steps}", "--batch", "4")
        with Job(tmp_path, *arguments, ranks=2, run=RUN, endpoint=service.grpc_address) as job:
            wait_until(
                "the finding", lambda: step(service) > 0 and finding(service, "missing_gradient_sync"), 90
            )
            before = finding(service, "missing_gradient_sync")
            wait_until("more steps", lambda: step(service) > 150)
            killed = service.kill()
            wait_until("an outage of two seconds", lambda: service.clock() > killed + 2.0)
            restarting = service.clock()
            service.start()
            job.wait(180)
            wait_until("the last step", lambda: step(service) == steps - 1)

        after = finding(service, "missing_gradient_sync", "firing")
        assert after is not None
        assert (after["id"], after["since_step"]) == (before["id"], before["since_step"])
        for rank in service.get(f"/api/v1/runs/{RUN}/ranks")["ranks"]:
            assert rank["steps_received"] == steps
            assert rank["steps_missing"] == 0

        for ends in job.step_ends().values():
            durations = [(end, end - begin) for begin, end in itertools.pairwise(ends)]
            outage = [duration for end, duration in durations if killed < end < restarting]
            others = [duration for end, duration in durations if not killed < end < restarting]
            assert len(outage) > 10
            # An agent that blocked would hold a step for its connection's deadline, seconds; what two busy cores do to a
            # step of 20 ms is seen in the other steps.
            assert max(outage) <= 2 * max(*others, 10 * statistics.median(others))
