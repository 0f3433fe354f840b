"""The gateway and its gate, over real gRPC: what happens to a stream when its token changes, at every moment of its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from stallwatch.detector.auth import tokens
from stallwatch.detector.auth.access import Principal
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.auth.throttle import BURST
from stallwatch.detector.engine.messages import IngestResult, Progress
from stallwatch.detector.ingest.admission import Admission
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.gateway import Gateway, GatewayServer
from stallwatch.detector.ingest.quota import Quotas
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.v1 import analyzer_pb2, telemetry_pb2_grpc
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import hello
from support.waiting import until

SECRET = tokens.new_secret()
RUN = "mine/run"
ENTRY = f'[[token]]\nname = "one"\nhash = "{tokens.hash_of(SECRET)}"\nscopes = ["write"]\nruns = ["mine/*"]\n'
CHANGES = {
    "revoked": ("", grpc.StatusCode.UNAUTHENTICATED, "the token is not known here"),
    "expired": (ENTRY + "expires = 2020-01-01\n", grpc.StatusCode.UNAUTHENTICATED, "token one has expired"),
    "other scope": (
        ENTRY.replace("write", "read"),
        grpc.StatusCode.PERMISSION_DENIED,
        "token one has no scope write",
    ),
    "other runs": (
        ENTRY.replace("mine", "theirs"),
        grpc.StatusCode.PERMISSION_DENIED,
        f"token one is not for run '{RUN}': its runs are theirs/*",
    ),
}


class Counting:
    """An analyzer that takes everything, and remembers of what kind it was."""

    run = RUN

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def ingest(self, inputs: Any) -> IngestResult:
        """Take it."""
        items = [analyzer_pb2.AnalyzerInput.FromString(data) for data in inputs]
        self.taken += [str(each.WhichOneof("input")) for each in items]
        progress = tuple(Progress(each.rank, each.incarnation, 1, 1) for each in items)
        return IngestResult("one", applied=True, progress=progress)


class World:
    """A gateway that listens, its gate, and the one run behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text(ENTRY)
        self.gate = Gate(path)
        self.statistics = IngestStatistics()
        self.analyzer = Counting()
        self.opening = asyncio.Event()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.quotas = Quotas({}, {}, run_bytes_per_second=1e9)
        self.gateway = Gateway(self, self.statistics, Admission(100, 100), self.quotas, self.gate)
        self.port = 0

    async def open_channel(self, _run: str, _account: Principal) -> RunChannel:
        """The run's channel, once it may be opened."""
        self.opening.set()
        await self.may_open.wait()
        return RunChannel(self.analyzer, self.statistics, self.quotas.of("", RUN))

    def change(self, content: str) -> None:
        """What the watcher does when the file has changed."""
        self.path.write_text(content)
        assert self.gate.refresh()
        self.gateway.review()

    @asynccontextmanager
    async def stream(self, token: str | None = SECRET) -> AsyncIterator[Any]:
        """A rank's stream."""
        metadata = [("authorization", f"Bearer {token}")] if token else []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = telemetry_pb2_grpc.TelemetryServiceStub(channel).Stream(metadata=metadata)
            yield call
            call.cancel()


@pytest.fixture
async def world(tmp_path):
    """It, listening."""
    made = World(tmp_path / "tokens.toml")
    server = GatewayServer(made.gateway, max_streams=100)
    made.port = await server.start("127.0.0.1", 0)
    yield made
    await server.stop(0)


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ends."""
    return await asyncio.wait_for(call.code(), 20), await call.details()


@pytest.mark.parametrize("change", CHANGES)
async def test_an_open_stream_ends_with_its_rights(world, change):
    """The analysis is told that the stream is gone; another one is not let in."""
    content, code, says = CHANGES[change]
    async with world.stream() as call:
        await call.write(pb.StreamRequest(hello=hello(RUN)))
        assert (await call.read()).WhichOneof("payload") == "welcome"
        world.change(ENTRY + "max_streams = 5\n")
        await call.write(pb.StreamRequest(batch=pb.Batch(sequence=1)))
        assert (await call.read()).WhichOneof("payload") == "acknowledgement"
        world.change(content)
        found, details = await ended(call)
        assert (found, details.startswith(says)) == (code, True), details
    async with world.stream() as call:
        # Who is not known is told so before: of a hello that it cannot send any more, gRPC's client says INTERNAL.
        if code is grpc.StatusCode.PERMISSION_DENIED:
            await call.write(pb.StreamRequest(hello=hello(RUN)))
        assert (await ended(call))[0] is code
    assert world.gateway._sessions == {}
    assert "disconnect" in world.analyzer.taken
    reason = "unauthenticated" if code is grpc.StatusCode.UNAUTHENTICATED else "permission"
    assert world.statistics.streams_refused == {reason: 1}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_token_that_ends_while_the_run_is_opened_writes_nothing(world, change):
    """Opening starts a process and takes seconds."""
    content, code, says = CHANGES[change]
    world.may_open.clear()
    async with world.stream() as call:
        await call.write(pb.StreamRequest(hello=hello(RUN)))
        await asyncio.wait_for(world.opening.wait(), 20)
        world.change(content)
        world.may_open.set()
        found, details = await ended(call)
        assert (found, details.startswith(says)) == (code, True), details
    assert world.analyzer.taken == []


async def test_a_token_that_ends_before_the_first_message_is_not_listened_to(world):
    """Between the opening of a stream and its hello."""
    async with world.stream() as call:
        await until("the stream is open", lambda: world.statistics.streams == 1)
        world.change("")
        await call.write(pb.StreamRequest(hello=hello(RUN)))
        assert (await ended(call))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert not world.opening.is_set()


async def test_who_knocks_in_vain_does_not_fill_the_log(world, caplog):
    """Every attempt is counted, the first are logged, and none of them shows what was sent."""
    caplog.set_level("INFO")
    wrong = tokens.new_secret()
    for _ in range(BURST + 10):
        async with world.stream(wrong) as call:
            assert (await ended(call))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert world.statistics.streams_refused == {"unauthenticated": BURST + 10}
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert BURST <= len(lines) < BURST + 10
    assert wrong not in "".join(lines)
