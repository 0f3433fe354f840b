"""What tests of the agent under faults share."""

from __future__ import annotations

import pytest

from support.small_training import process_group, train
from support.waiting import wait_until


@pytest.fixture
def quick(monkeypatch):
    """An agent whose waits are as much shorter as a test is than a training: batches, tries and patience, all in proportion.

    Only its patience at the end is longer: what has to arrive does so however long the machine stands still meanwhile.
    """
    for name, seconds in (
        ("_agent.CLOSE_SECONDS", 60.0),
        ("_transport.BATCH_SECONDS", 0.05),
        ("_transport.OFFLINE_BATCH_SECONDS", 0.1),
        ("_transport.FIRST_RETRY_SECONDS", 0.02),
        ("_transport.LONGEST_RETRY_SECONDS", 0.1),
        ("_transport.PERMANENT_RETRY_SECONDS", 0.1),
        ("_stream.ACKNOWLEDGEMENT_SECONDS", 1.0),
        ("_stream.WELCOME_SECONDS", 1.0),
        ("_stream.UNASKED_SECONDS", 0.5),
    ):
        monkeypatch.setattr(f"stallwatch.agent.{name}", seconds)


@pytest.fixture(scope="module")
def gloo(tmp_path_factory):
    """A process group, for DDP."""
    with process_group(tmp_path_factory.mktemp("gloo")):
        yield


@pytest.fixture(scope="module")
def alone(gloo):
    """Outcomes of trainings without the agent, by kind."""
    known = {}

    def outcome(kind="plain"):
        if kind not in known:
            known[kind] = train(kind)
        return known[kind]

    return outcome


@pytest.fixture
def delivered():
    """Waits until an agent's buffer is empty: all it has made batches of is durable."""

    def wait(watch, seconds: float = 30.0) -> None:
        core = watch._core
        core.transport.wake()
        wait_until("all to be durable", lambda: not len(core.buffer), seconds)

    return wait
