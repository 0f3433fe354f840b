"""The agent under faults around a training: whatever fails, the training's numbers are those of a training without the agent.

Every test compares losses, parameters, the optimizer's state and the states of three random generators, bit for bit, and accounts
for every step.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import math
import signal
import sys
import threading
import time

import grpc
import pytest
import torch
import trustme

from stallwatch.agent import attach
from stallwatch.agent._buffer import BatchBuffer
from stallwatch.agent._collector import Collector
from stallwatch.agent._config import Endpoint
from stallwatch.agent._probe.directions import DirectionProbe
from stallwatch.agent._probe.inputs import InputProbe
from stallwatch.agent._probe.sampled import SampledPass
from stallwatch.agent._probe.steps import StepProbe
from stallwatch.agent._queue import BoundedQueue
from stallwatch.agent._records import Contents
from stallwatch.v1 import telemetry_pb2 as wire
from support.dns_server import DnsServer
from support.relay import Relay
from support.small_training import STEPS, WIDE_STEPS, train
from support.telemetry_server import TelemetryServer
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("quick", "gloo")

ALL = list(range(STEPS))


def options(endpoint: str, **more):
    """Arguments of `attach`."""
    return {"endpoint": endpoint, "run": "fire", "sample_every": 4, **more}


# --- the detector and the way to it ---------------------------------------------------------------------------------------


def test_detector_that_never_answers(alone, monkeypatch):
    """Nobody listens at all: the training is the same, and closing gives up."""
    monkeypatch.setattr("stallwatch.agent._agent.CLOSE_SECONDS", 1.0)
    assert train(agent=options("127.0.0.1:9")) == alone()


def test_slow_detector(alone):
    """One message is read in a tenth of a second: the rest waits, and all of it arrives."""
    with TelemetryServer(before=lambda _: time.sleep(0.1), heartbeat_seconds=5.0) as server:

        def at_step(step, watch):
            if step % 20 == 10:
                server.wait_for(lambda it: it.ranks and len(it.rank(0).steps) >= step - 9)

        assert train(agent=options(server.endpoint), at_step=at_step) == alone()
        assert server.rank(0).steps == ALL


def test_flapping_connection(alone):
    """Connections are reset again and again, in the middle of whatever is under way."""
    with TelemetryServer() as server, Relay(server.endpoint) as relay:

        def at_step(step, watch):
            if step % 10 == 5:
                before = len(server.rank(0).hellos) if server.ranks else 0
                relay.reset()
                server.wait_for(lambda it: it.ranks and len(it.rank(0).hellos) > before)

        assert train(agent=options(relay.endpoint), at_step=at_step) == alone()
        record = server.rank(0)
        assert record.steps == ALL
        assert len(record.hellos) >= 6
        assert record.dropped == {}


def test_full_detector(alone):
    """It has no room for this run (RESOURCE_EXHAUSTED), for a while."""
    with TelemetryServer() as server:
        server.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED

        def at_step(step, watch):
            if step == 30:
                wait_until("three refusals", lambda: len(server.metadata) >= 3)
                server.refuse = None

        assert train(agent=options(server.endpoint), at_step=at_step) == alone()
        assert server.rank(0).steps == ALL


def test_half_open_connection(alone, delivered):
    """The connection stands and passes nothing on: the agent notices that no acknowledgement comes, and tries another."""
    with TelemetryServer() as server, Relay(server.endpoint) as relay:

        def at_step(step, watch):
            if step == 20:
                server.wait_for(lambda it: it.ranks and it.rank(0).steps)
                relay.swallow()
            if step == 50:
                wait_until("another connection", lambda: relay.connections >= 2)
                delivered(watch)

        assert train(agent=options(relay.endpoint), at_step=at_step) == alone()
        assert server.rank(0).steps == ALL


def test_detector_that_acknowledges_nothing_is_not_reconnected_to_while_it_reads(alone):
    """Durability that is long in coming is no half-open connection: the store may be away for hours."""
    with TelemetryServer(acknowledge=False) as server:

        def at_step(step, watch):
            if step == 30:
                began = time.monotonic()
                server.wait_for(lambda it: it.ranks and len(it.rank(0).steps) >= 29)
                wait_until("more than its patience", lambda: time.monotonic() > began + 1.5)
            if step == STEPS - 1:
                server.make_durable()

        assert train(agent=options(server.endpoint), at_step=at_step) == alone()
        assert server.rank(0).steps == ALL
        assert len(server.rank(0).hellos) == 1


def test_certificates_that_expire_and_rotate(alone, tmp_path, monkeypatch):
    """With an expired certificate on either side nothing is sent; once the files are new, all of it is."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    past = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    before = past - dt.timedelta(days=1)
    fresh = authority.issue_cert("127.0.0.1")
    expired = authority.issue_cert("127.0.0.1", not_before=before, not_after=past)

    def server_side(certificate):
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        return grpc.ssl_server_credentials(
            [(certificate.private_key_pem.bytes(), chain)],
            authority.cert_pem.bytes(),
            require_client_auth=True,
        )

    def agent_side(certificate):
        certificate.private_key_pem.write_to_path(tmp_path / "agent.key")
        (tmp_path / "agent.pem").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))

    agent_side(fresh)
    for variable, name in (("CA", "ca.pem"), ("CERT", "agent.pem"), ("KEY", "agent.key")):
        monkeypatch.setenv(f"STALLWATCH_TLS_{variable}", str(tmp_path / name))
    with TelemetryServer(credentials=server_side(expired)) as server:

        def at_step(step, watch):
            transport = watch._core.transport
            if step == 10:
                wait_until("refusals of the detector's certificate", lambda: transport._failures >= 2)
                assert not server.ranks
                server.stop()
                server.credentials = server_side(fresh)
                server.start()
                server.wait_for(lambda it: it.ranks)
            elif step == 30:
                agent_side(expired)
                server.stop()
                server.start()
                wait_until("no connection", lambda: not transport.connected)
                failures = transport._failures
                wait_until("refusals of the agent's", lambda: transport._failures >= failures + 2)
                agent_side(fresh)

        assert train(agent=options(f"https://{server.endpoint}"), at_step=at_step) == alone()
        record = server.rank(0)
        assert record.steps == ALL
        assert len(record.hellos) == 2


def test_name_that_is_gone_and_comes_back(alone, monkeypatch):
    """No name server answers for the detector's name, then one does, with an address that is right."""
    with TelemetryServer() as server, DnsServer("127.0.0.1") as names:
        names.silent = True
        target = f"dns://{names.address}/detector.example:{server.port}"
        monkeypatch.setattr("stallwatch.agent._config._endpoint", lambda _: Endpoint(target, secure=False))

        def at_step(step, watch):
            if step == 30:
                wait_until("two tries", lambda: watch._core.transport._failures >= 2)
                names.silent = False
                server.wait_for(lambda it: it.ranks)

        assert train(agent=options("detector.example:9846"), at_step=at_step) == alone()
        assert server.rank(0).steps == ALL


def test_lying_detector(alone):
    """It claims to have more than was ever sent, asks for the absurd, and talks without end: what is sent after it still comes."""
    with TelemetryServer(heartbeat_seconds=1e-9) as server:

        def at_step(step, watch):
            if step == 10:
                server.wait_for(lambda it: it.ranks and len(it.rank(0).steps) == 9)
                lie = wire.Acknowledgement(accepted_sequence=2**60, durable_sequence=2**60)
                server.send(
                    wire.StreamResponse(welcome=wire.Welcome(durable_sequence=2**63, max_batch_steps=1))
                )
                server.send(wire.StreamResponse(acknowledgement=lie))
                for _ in range(1_200):
                    server.send(wire.StreamResponse(advice=wire.Advice(sample_period_factor=2**31)))
                wait_until("the advice", lambda: watch._core.period.steps > 4)
                assert watch._core.period.steps <= 4 * 1024

        assert train(agent=options(server.endpoint), at_step=at_step) == alone()
        assert server.rank(0).steps == ALL


# --- the clock ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
def test_wall_clock_that_jumps(alone, monkeypatch, jump):
    """A day forward or back: nothing waits, hurries or is lost, and heartbeats go on; only what is told of the time is wrong."""
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    with TelemetryServer() as server:

        def at_step(step, watch):
            if step == 20:
                server.wait_for(lambda it: it.ranks and it.rank(0).heartbeats)
                offset[0] = jump
            if step == 40:
                beats = len(server.rank(0).heartbeats)
                server.wait_for(lambda it: len(it.rank(0).heartbeats) >= beats + 3)

        assert train(agent=options(server.endpoint), at_step=at_step) == alone()
        record = server.rank(0)
        assert record.steps == ALL
        assert len(record.hellos) == 1
        assert max(record.column("step_seconds")[1:]) < 60
        told = [each.sent_unix_seconds for each in record.heartbeats]
        assert abs(told[-1] - told[0] - jump) < 60


# --- what the user's code does --------------------------------------------------------------------------------------------


def raises(_finding, _watch):
    """An error."""
    raise ValueError("mine")


def exits(_finding, _watch):
    """Not what ends a thread."""
    sys.exit(3)


def blocks(_finding, _watch):
    """For ever."""
    threading.Event().wait()


def closes(_finding, watch):
    """Ends the watching from within."""
    watch.close()


def attaches(_finding, _watch):
    """Watches something else."""
    model = torch.nn.Module()
    # No random numbers: those would be the script's own.
    model.register_parameter("weight", torch.nn.Parameter(torch.zeros(4)))
    with contextlib.suppress(Exception):
        attach(
            model, torch.optim.SGD(model.parameters(), lr=0.1), run="other", endpoint="127.0.0.1:9"
        ).close()


@pytest.mark.parametrize("behaviour", [raises, exits, blocks, closes, attaches])
def test_callback(alone, behaviour):
    """Whatever `on_finding` does, batches go on being sent and acknowledged, unless it is to end that."""
    called = threading.Event()
    seen = {}

    def on_finding(finding):
        called.set()
        behaviour(finding, seen["watch"])

    notice = wire.FindingNotice(kind="plateau", severity="warning", status="firing", reason="x")
    with TelemetryServer() as server:

        def at_step(step, watch):
            if step == 10:
                seen["watch"] = watch
                server.wait_for(lambda it: it.ranks)
                for _ in range(100):
                    server.send(wire.StreamResponse(finding=notice))
                assert called.wait(20)
            if step == 40 and behaviour is not closes:
                server.wait_for(lambda it: len(it.rank(0, "fire").steps) > 30)

        assert train(agent=options(server.endpoint, on_finding=on_finding), at_step=at_step) == alone()
        record = server.rank(0, "fire")
        server.wait_for(lambda it: record.goodbyes)
        assert record.steps == (ALL if behaviour is not closes else list(range(len(record.steps))))
        assert len(record.hellos) == 1


def test_log_whose_handler_raises(alone, monkeypatch):
    """The script's logging fails, and so does the agent: neither reaches the training."""

    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("disk full")

    monkeypatch.setattr(SampledPass, "before_step", lambda *_a, **_k: 1 / 0)
    logger, handler = logging.getLogger("stallwatch.agent"), Broken()
    logger.addHandler(handler)
    try:
        with TelemetryServer(reject=lambda batch: "steps" if 0 in batch.steps.step else "") as server:

            def at_step(step, watch):
                watch.log("no number", 1)

            assert train(agent=options(server.endpoint), at_step=at_step) == alone()
    finally:
        logger.removeHandler(handler)


def test_signal_handler_that_raises_inside_a_hook(gloo, monkeypatch):
    """A time limit of the script's own hits while a hook runs: the script gets its exception, as it would anywhere."""

    class TimeUpError(Exception):
        pass

    def handler(_number, _frame):
        raise TimeUpError

    begin_forward = StepProbe._begin_forward

    def interrupted(self, *arguments):
        if self.next_step == 20:
            signal.raise_signal(signal.SIGUSR1)
        return begin_forward(self, *arguments)

    monkeypatch.setattr(StepProbe, "_begin_forward", interrupted)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with TelemetryServer() as server, pytest.raises(TimeUpError):
            train(agent=options(server.endpoint))
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- the process ----------------------------------------------------------------------------------------------------------


def test_two_thousand_threads(alone, monkeypatch):
    """So many other threads live in the process that every look at all of them is long."""
    monkeypatch.setattr("stallwatch.agent._heartbeat.is_suspicious", lambda *_: True)
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(2000)]
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    size = threading.stack_size(64 * 1024)
    try:
        for each in threads:
            each.start()
        threading.stack_size(size)
        with TelemetryServer() as server:

            def at_step(step, watch):
                if step == 30:
                    server.wait_for(lambda it: it.ranks and len(it.rank(0).heartbeats) >= 2)

            assert train(agent=options(server.endpoint), at_step=at_step) == alone()
            assert server.rank(0).steps == ALL
    finally:
        threading.stack_size(size)
        over.set()
        for each in threads:
            each.join(10)


def test_ten_thousand_parameters(alone):
    """Each with hooks of its own: the same training, and messages far below what a detector takes."""
    sizes = []
    with TelemetryServer(before=lambda request: sizes.append(request.ByteSize())) as server:
        assert train("wide", agent=options(server.endpoint, sample_every=2)) == alone("wide")
        record = server.rank(0)
        assert record.steps == list(range(WIDE_STEPS))
        assert len(record.hellos[0].blocks) == 512
        assert [each.step for each in record.samples] == [0]
    assert max(sizes) < 1 << 20


PLACES = [
    (StepProbe, "_begin_forward"),
    (StepProbe, "_on_ready"),
    (StepProbe, "_on_backward_end"),
    (StepProbe, "_take_fingerprint"),
    (StepProbe, "_close_record"),
    (StepProbe, "_hand_on"),
    (SampledPass, "arm"),
    (SampledPass, "before_step"),
    (SampledPass, "after_step"),
    (DirectionProbe, "before_step"),
    (DirectionProbe, "compare"),
    (InputProbe, "see"),
    (Collector, "add_record"),
    (Contents, "all_steps"),
    (BatchBuffer, "append"),
    (BoundedQueue, "take_if"),
]


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[f"{o.__name__}.{n}" for o, n in PLACES])
def test_out_of_memory_anywhere(alone, monkeypatch, owner, name):
    """`MemoryError` where the agent reads and collects: steps keep their numbers, and those that are lost are counted."""
    whole, calls = getattr(owner, name), [0]

    def short(*arguments, **keywords):
        calls[0] += 1
        if calls[0] in {3, 9}:
            raise MemoryError
        return whole(*arguments, **keywords)

    monkeypatch.setattr(owner, name, short)
    with TelemetryServer() as server:

        def at_step(step, watch):
            if step % 20 == 10:
                server.wait_for(lambda it: it.ranks and it.rank(0).steps)

        assert train(agent=options(server.endpoint), at_step=at_step) == alone()
        record = server.rank(0)
    assert record.steps == sorted(set(record.steps))
    lost = set(ALL) - set(record.steps)
    assert len(lost) == record.dropped.get(wire.DROP_REASON_INTERNAL_ERROR, 0)
    ranges = [(each.first_step, each.last_step) for batch in record.batches for each in batch.dropped]
    assert all(any(low <= step <= high for low, high in ranges) for step in lost)
    # A loss belongs to the step that it is told for; of a step that was not read to its end it may be missing.
    for step, told in zip(record.steps, record.column("loss_sum"), strict=True):
        assert told == float.fromhex(alone().losses[step]) * 16 or math.isnan(told)
