"""The agent under faults that need a process of their own: forks, signals, exits, limits of the system.

As in `test_under_fire`, the numbers of each training are those of a training without the agent, bit for bit.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.fire_jobs import Starter
from support.small_training import STEPS
from support.telemetry_server import TelemetryServer

ALL = list(range(STEPS))


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Starts jobs."""
    with Starter(tmp_path_factory.mktemp("jobs")) as starter:
        yield starter


@pytest.fixture(scope="module")
def alone(jobs):
    """Outcomes of the same trainings without the agent."""
    known: dict[str, object] = {}

    def outcome(kind: str = "plain") -> object:
        if kind not in known:
            with jobs.start("left_open", kind) as job:
                known[kind] = job.hears()["outcome"]
                job.end()
        return known[kind]

    return outcome


@pytest.mark.parametrize(
    "fault",
    [
        "hold_the_interpreter",
        "fork_and_train",
        "disk_full",
        "memory_short",
        "exit_in_thread",
        "daemon_threads",
    ],
)
def test_fault_inside_the_process(jobs, alone, fault):
    """The job does it to itself: nothing is lost, nobody reconnects, nothing is said."""
    with TelemetryServer() as server, jobs.start(fault, endpoint=server.endpoint) as job:
        assert job.hears()["outcome"] == alone()
        errors = job.end()
        record = server.rank(0, "fire")
        assert record.steps == ALL
        assert len(record.hellos) == len(record.goodbyes) == 1
        assert "internal error" not in errors


def test_connection_made_anew_with_little_memory(jobs, alone):
    """Threads and buffers of a connection may not be had: training goes on, and what could not be sent waits."""
    with (
        TelemetryServer() as server,
        jobs.start("connection_lost_while_memory_short", endpoint=server.endpoint) as job,
    ):
        job.hears()
        server.stop()
        server.start()
        job.go_on()
        assert job.hears()["outcome"] == alone()
        job.end()


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_workers_of_a_data_loader(jobs, alone, kind):
    """Worker processes load the data: forks of this one, which has the agent's threads, and processes of their own."""
    with TelemetryServer() as server, jobs.start("left_open", kind, server.endpoint) as job:
        assert job.hears()["outcome"] == alone("fork")
        job.end()
        record = server.rank(0)
        assert record.steps == ALL
        assert len(record.hellos) == len(record.goodbyes) == 1


@pytest.mark.alone
def test_sigterm_without_a_handler(jobs):
    """It ends the process at once, as without the agent: no handler stands in its way, and no goodbye is said."""
    with TelemetryServer() as server, jobs.start("none", endpoint=server.endpoint) as job:
        pid = job.hears()["here"]
        server.wait_for(lambda it: len(it.rank(0).steps) >= 29)
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        job.end(-signal.SIGTERM)
        assert time.monotonic() - began < 5
        assert not server.rank(0).goodbyes


def test_sigterm_with_the_scripts_own_handler(jobs):
    """The handler is called, and what it begins, an orderly exit, brings what is left to the detector, and a goodbye."""
    with TelemetryServer() as server, jobs.start("handled_signal", endpoint=server.endpoint) as job:
        os.kill(job.hears()["here"], signal.SIGTERM)
        job.go_on()
        assert job.hears() == {"handled": True}
        job.end(0)
        record = server.rank(0)
        assert record.steps == list(range(30))
        assert [each.reason for each in record.goodbyes] == ["finished"]


def test_sigkill(jobs):
    """What was sent is there; nothing else can be."""
    with TelemetryServer() as server, jobs.start("none", endpoint=server.endpoint) as job:
        pid = job.hears()["here"]
        server.wait_for(lambda it: len(it.rank(0).steps) >= 29)
        os.kill(pid, signal.SIGKILL)
        job.end(-signal.SIGKILL)
        assert server.rank(0).steps == list(range(len(server.rank(0).steps)))


def test_uncaught_exception_is_told(jobs):
    """The goodbye names it, and the script ends as it would alone."""
    with TelemetryServer() as server, jobs.start("uncaught", endpoint=server.endpoint) as job:
        assert "ValueError: of the script" in job.end(1)
        assert [each.reason for each in server.rank(0).goodbyes] == ["exception: ValueError"]
        assert server.rank(0).steps == list(range(30))


@pytest.mark.alone
def test_exit_while_the_detector_is_down(jobs, alone):
    """The end of the process waits for the detector, for five seconds and no longer."""
    with jobs.start("left_open", endpoint="127.0.0.1:9") as job:
        assert job.hears()["outcome"] == alone()
        began = time.monotonic()
        job.end()
        # Five seconds, and what the interpreter itself takes on a busy machine.
        assert time.monotonic() - began < 5 + 5
