"""One that floods is held back, and others are served; how fast is measured by tests/bench/flood.py."""

from __future__ import annotations

import math
import socket
import threading
import urllib.request
from contextlib import ExitStack

import grpc
import pytest

from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Rank, Stream, hello, steps
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def quiet(service, request):
    """A run that sends little, and is served all the time on one stream."""
    rank = Rank(service.grpc_address, hello(f"quiet-{request.node.name[:60].replace('[', '-').rstrip(']')}"))
    rank.send(steps(0, 10))
    rank.wait_accepted()
    yield rank
    rank.send(steps(10, 10))
    rank.wait_durable()
    assert rank.connections == 1
    rank.finish()


def throttled(service, reason: str) -> float:
    """Seconds that messages waited for this reason."""
    return service.metric("stallwatch_ingest_throttled_seconds_total", reason=reason) or 0.0


class Flooder:
    """Sends one message again and again on one stream, as fast as it is taken."""

    def __init__(self, address: str, run: str, message: pb.StreamRequest) -> None:
        self._stop = threading.Event()
        self._stream = Stream(address)
        self._stream.send(hello=hello(run))
        self._message = message
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._listen)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._stop.is_set():
            if self._stream._requests.qsize() < 20:
                self._stream._requests.put(self._message)
            else:
                self._stop.wait(0.005)

    def _listen(self) -> None:
        try:
            for _response in self._stream.call:
                pass
        except grpc.RpcError:
            pass

    def stop(self) -> None:
        """Go without a word."""
        self._stop.set()
        self._stream.__exit__()


def test_a_flood_waits_for_its_share_and_others_do_not(service, quiet):
    """Of batches that are rejected for their last value: the costliest that never reach an analyzer."""
    block = steps(0, 4096)
    block.optimizer_seconds[-1] = math.inf
    before = throttled(service, "share")
    flooder = Flooder(
        service.grpc_address, "flood", pb.StreamRequest(batch=pb.Batch(sequence=1, steps=block))
    )
    try:
        for number in range(1, 40):
            quiet.send(steps(10 + 10 * number, 10))
            quiet.wait_accepted(seconds=10)
        wait_until("the flood to be held", lambda: throttled(service, "share") > before, 20)
    finally:
        flooder.stop()


def test_a_batch_that_would_unfold_is_rejected_unparsed(service, quiet):
    """Two million empty records in 4 MB would be more than a gigabyte; the stream goes on."""
    # Made of bytes: parsed, it would cost the test what it spares the detector.
    record = pb.Batch(samples=[pb.SampledRecord()]).SerializeToString()
    inner = pb.Batch(sequence=1).SerializeToString() + record * 1_900_000
    messages = [
        pb.StreamRequest(hello=hello("unfolding")).SerializeToString(),
        b"\x12" + varint(len(inner)) + inner,
        pb.StreamRequest(batch=pb.Batch(sequence=2, steps=steps(0, 10))).SerializeToString(),
        pb.StreamRequest(goodbye=pb.Goodbye(reason="finished", last_step=9)).SerializeToString(),
    ]
    with grpc.insecure_channel(service.grpc_address) as channel:
        stream = channel.stream_stream(
            "/stallwatch.v1.TelemetryService/Stream", response_deserializer=pb.StreamResponse.FromString
        )
        answers = list(stream(iter(messages), timeout=60))
    (rejection,) = [each.rejection for each in answers if each.WhichOneof("payload") == "rejection"]
    assert (rejection.sequence, rejection.field) == (1, "samples")
    assert "more than 4096 records" in rejection.message
    assert answers[-1].acknowledgement.durable_sequence == 2


def varint(value: int) -> bytes:
    """As Protocol Buffers write a length."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_no_run_takes_all_streams(service, quiet):
    """Three quarters of 40 at most; the refusal says so, is counted, and another run is served."""
    before = service.metric("stallwatch_ingest_streams_refused_total", reason="too_many_ranks")
    with ExitStack() as stack:
        for rank in range(30):
            stream = stack.enter_context(Stream(service.grpc_address))
            stream.send(hello=hello("crowd", rank, 64))
            stream.receive("welcome")
        one_more = stack.enter_context(Stream(service.grpc_address))
        one_more.send(hello=hello("crowd", 30, 64))
        code, details = one_more.outcome()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "run crowd has 30 streams open" in details
        assert "STALLWATCH_MAX_STREAMS" in details
        other = Rank(service.grpc_address, hello("other"))
        other.send(steps(0, 10))
        other.finish()
    after = service.metric("stallwatch_ingest_streams_refused_total", reason="too_many_ranks")
    assert after == before + 1


def test_streams_that_say_nothing_make_room(service, quiet):
    """The longest silent goes when too many are; whoever greets is served."""
    with ExitStack() as stack:
        silent = [stack.enter_context(Stream(service.grpc_address)) for _ in range(12)]
        assert silent[0].outcome()[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        other = Rank(service.grpc_address, hello("greeting"))
        other.send(steps(0, 10))
        other.finish()


def test_readers_that_do_not_read_hold_nobody_up(service, quiet):
    """A hundred scrapes that are not read, and a hundred requests that never end."""
    with ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.http_port)))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = b"GET /metrics HTTP/1.1\r\nhost: a\r\n"
            connection.sendall(head + b"\r\n" if number % 2 else head)
        for number in range(1, 20):
            quiet.send(steps(10 + 10 * number, 10))
            quiet.wait_accepted(seconds=10)
        assert service.fetch("/livez") == (200, "ok\n")
        with urllib.request.urlopen(service.url + "/metrics", timeout=20) as answer:
            assert b"stallwatch_build_info" in answer.read()
