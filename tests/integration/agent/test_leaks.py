"""What a long training with a bad network gathers: threads, open files and memory must end where they began."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass

import psutil
import pytest
import torch

from stallwatch.agent import attach
from stallwatch.agent._agent import Core
from support.relay import Relay
from support.telemetry_server import TelemetryServer
from support.waiting import wait_until

RECONNECTS = 200
ATTACHMENTS = 300


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    threads: int
    native_threads: int
    files: int
    memory: int

    @classmethod
    def now(cls) -> Held:
        """Counted after everything that can be freed is."""
        gc.collect()
        process = psutil.Process()
        return cls(
            threading.active_count(), process.num_threads(), process.num_fds(), process.memory_info().rss
        )


def settled(before: Held, more: int) -> Held:
    """What is held once threads and files are back to `more` above what they were."""
    held = before

    def back() -> bool:
        nonlocal held
        held = Held.now()
        within = held.files <= before.files + more and held.threads <= before.threads + more
        return within and held.native_threads <= before.native_threads + more

    try:
        # gRPC's pool of threads, which grows while the machine is busy, lets an idle one go after some time only.
        wait_until("threads and files to be given back", back)
    except AssertionError as error:
        raise AssertionError(f"{error}: {before} before, {held} now") from None
    return held


def training():
    """A model and its optimizer."""
    model = torch.nn.Linear(4, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model, optimizer) -> None:
    """One."""
    model(torch.ones(2, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.usefixtures("quick")
def test_two_hundred_reconnects(monkeypatch):
    """Each connection is reset as soon as it is welcomed; what is held after 200 is what was held after 20, and nothing is lost."""
    monkeypatch.setattr("stallwatch.agent._transport._SETTLED_SECONDS", 0.0)
    with TelemetryServer() as server, Relay(server.endpoint) as relay:
        model, optimizer = training()
        watch = attach(model, optimizer, run="leaks", endpoint=relay.endpoint)

        def reconnect(numbers: range) -> None:
            for number in numbers:
                step(model, optimizer)
                server.wait_for(lambda it, most=number: it.ranks and len(it.rank(0).hellos) > most)
                relay.reset()

        reconnect(range(20))
        before = Held.now()
        reconnect(range(20, RECONNECTS))
        after = settled(before, more=3)
        watch.close()
        record = server.rank(0)
    assert record.steps == list(range(RECONNECTS))
    assert record.dropped == {}
    assert after.memory - before.memory < 24 << 20


@pytest.mark.usefixtures("quick")
def test_three_hundred_attachments(monkeypatch):
    """Attached, trained, closed, 300 times in one process: hooks, threads, channels and agents are gone each time."""
    with TelemetryServer() as server:

        def attach_and_close(count: int) -> None:
            for _ in range(count):
                model, optimizer = training()
                watch = attach(model, optimizer, run="attachments", endpoint=server.endpoint)
                step(model, optimizer)
                watch.close()

        attach_and_close(20)
        before = Held.now()
        attach_and_close(ATTACHMENTS - 20)
        after = settled(before, more=3)
        assert len(server.ranks) == ATTACHMENTS
        assert all(record.steps == [0] and len(record.goodbyes) == 1 for record in server.ranks.values())
    # A test before may have left one to its `on_finding`, which ends when it likes.
    assert not [
        each for each in gc.get_objects() if type(each) is Core and each.identity.run == "attachments"
    ]
    assert after.memory - before.memory < 24 << 20


@pytest.mark.usefixtures("quick")
def test_tries_that_fail_before_they_connect_hold_nothing(monkeypatch, tmp_path):
    """A token that cannot be read fails each try after its channel was opened."""
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setenv("STALLWATCH_TOKEN_FILE", str(token))
    monkeypatch.setattr("stallwatch.agent._transport.LONGEST_RETRY_SECONDS", 0.0)
    with TelemetryServer(token="secret") as server:
        model, optimizer = training()
        watch = attach(model, optimizer, run="leaks", endpoint=server.endpoint)
        core = watch._core
        server.wait_for(lambda it: it.ranks)
        token.unlink()
        server.stop()
        wait_until("some failures", lambda: core.transport._failures >= 20)
        before = Held.now()
        wait_until("many failures", lambda: core.transport._failures >= 120)
        settled(before, more=3)
        token.write_text("secret")
        server.start()
        step(model, optimizer)
        server.wait_for(lambda it: len(it.rank(0).hellos) == 2)
        watch.close()
        assert server.rank(0).steps == [0]


def test_training_without_a_step_that_the_agent_sees_gathers_nothing():
    """Forwards, backwards and losses, but no optimizer that is known: what belongs to the step is bounded."""
    with TelemetryServer() as server:
        model, optimizer = training()
        watch = attach(model, optimizer, run="leaks", endpoint=server.endpoint)
        core = watch._core
        inputs = torch.ones(2, 4)
        for _ in range(9000):
            watch.log(1.0, 2, groups={"a": (1.0, 1)}, components={"b": 1.0})
        for _ in range(1100):
            model(inputs).sum().backward()
        losses = core.probe.losses()
        assert max(len(losses.values), len(losses.groups), len(losses.components)) <= 8192
        assert losses.samples == 2 * len(losses.values)
        assert len(core.probe._inputs._seen) <= 1024
        assert len(core.probe._anchor.readings.local) <= 1025
        optimizer.step()
        watch.close()
        assert server.rank(0).steps == [0]
        assert server.rank(0).column("loss_sum")[0] == server.rank(0).column("samples")[0]
