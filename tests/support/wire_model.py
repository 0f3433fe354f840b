"""Agent, gateway and analyzer in one process, and a wire between them that a test has in its hands.

Real: the agent's buffer and batches, the gateway's streams and channel, the analyzer with its store. Made up: what carries messages,
and the clock, which goes on by a moment with everything that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from stallwatch.agent._buffer import BatchBuffer, DropCounter
from stallwatch.agent._records import Contents, Losses, StepRecord, build_batch
from stallwatch.detector.engine.actor import RunAnalyzer
from stallwatch.detector.engine.messages import AnalyzerSettings, IngestResult
from stallwatch.detector.errors import AnalyzerLostError
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.quota import Quotas
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.ingest.stream import RankStream
from stallwatch.v1 import telemetry_pb2 as pb
from support.analyzer_inputs import START
from support.rank import hello

RUN = "team/run:1"
MOMENT = 1e-4
"""So short that nothing is ever late."""


class _AbortedError(Exception):
    """The service has ended the stream."""


class Clock:
    """Goes on by a moment each time it is looked at."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Unix seconds."""
        self.now += MOMENT
        return self.now


class Analyzer:
    """One life of the real analyzer, as a gateway calls it."""

    run = RUN

    def __init__(self, settings: AnalyzerSettings, clock: Clock) -> None:
        self.real = RunAnalyzer(RUN, settings)
        # Snapshots are taken when the test says so, and not when a clock does.
        self.real._next_snapshot_at = float("inf")
        self._clock = clock
        self.dead = False

    async def ingest(self, inputs: Sequence[bytes]) -> IngestResult:
        """Apply inputs, unless it has died."""
        await asyncio.sleep(0)
        if self.dead:
            raise AnalyzerLostError("the analyzer was killed")
        return self.real.ingest(self.real.generation, inputs)

    def poll(self) -> Any:
        """Let a moment pass."""
        return self.real.poll(self._clock())


class Connection:
    """One stream between an agent and the gateway: messages wait on it until the test lets them pass."""

    def __init__(
        self, greeting: pb.Hello, channel: RunChannel, statistics: IngestStatistics, clock: Clock
    ) -> None:
        self.upward: deque[bytes] = deque()
        self.downward: deque[pb.StreamResponse] = deque()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._served = asyncio.create_task(self._serve(greeting, channel, statistics, clock))

    @property
    def ended(self) -> bool:
        """Whether the service has ended it."""
        return self._served.done()

    async def _serve(self, *arguments: Any) -> None:
        with contextlib.suppress(_AbortedError, AnalyzerLostError):
            await RankStream(self, *arguments).serve()

    def arrive(self) -> None:
        """The oldest message of the agent reaches the gateway."""
        if self.upward:
            self._arrived.put_nowait(self.upward.popleft())

    def end(self) -> None:
        """The gateway hears that the agent sends no more."""
        self._arrived.put_nowait(grpc.aio.EOF)

    async def cancel(self) -> None:
        """The connection breaks."""
        self._served.cancel()
        await asyncio.gather(self._served, return_exceptions=True)

    # What a stream of the gateway asks of gRPC.

    async def read(self) -> Any:
        """The next message."""
        return await self._arrived.get()

    async def write(self, message: pb.StreamResponse) -> None:
        """To the agent."""
        self.downward.append(message)

    async def abort(self, code: grpc.StatusCode, message: str) -> None:
        """The service ends the stream."""
        raise _AbortedError(code, message)


@dataclass
class Agent:
    """One rank process: its buffer, and what it knows of its connection."""

    rank: int
    world_size: int
    incarnation: int
    first_step: int
    limit_bytes: int
    restart_count: int = 0
    """As launchers count."""
    next_step: int = 0
    sent: int = 0
    durable: int = 0
    welcomed: bool = False
    connection: Connection | None = None
    contents: dict[int, list[int]] = field(default_factory=dict)
    """Steps of every batch that was ever formed, by sequence."""
    lost: set[int] = field(default_factory=set)
    """Sequences that the full buffer has dropped."""

    def __post_init__(self) -> None:
        self.next_step = self.first_step
        self.drops = DropCounter()
        self.buffer = BatchBuffer(self.limit_bytes, self.drops)

    def greeting(self) -> pb.Hello:
        """What it says first."""
        return hello(
            RUN,
            self.rank,
            self.world_size,
            incarnation=self.incarnation,
            first_step=self.first_step,
            restart_count=self.restart_count,
        )

    def train(self, count: int) -> None:
        """Some steps, which become a batch; on rank 0 every seventh has a loss of NaN."""
        records = [self._record(step) for step in range(self.next_step, self.next_step + count)]
        self.next_step += count
        sequence = self.buffer.next_sequence
        contents = Contents(steps=records, dropped=self.drops.take())
        held = set(self.buffer._batches)
        self.buffer.append(build_batch(sequence, START, contents))
        self.lost |= held - set(self.buffer._batches)
        self.contents[sequence] = [record.step for record in records]

    def _record(self, step: int) -> StepRecord:
        losses = Losses()
        sick = self.rank == 0 and step % 7 == 6
        losses.values.append((float("nan") if sick else 2.0 - 0.001 * step, 8.0))
        losses.samples = 8.0
        seconds = (0.1, 0.01, 0.03, 0.04, 0.01, 0.01)
        return StepRecord(step, losses, 1, (0.1,), seconds, step, step, -1, 1)

    def send(self) -> bool:
        """Put the next batch on the connection; false when there is none."""
        batch = self.buffer.after(self.sent) if self.welcomed else None
        if batch is None or self.connection is None:
            return False
        self.sent = batch.sequence
        self.connection.upward.append(batch.request)
        return True

    def hear(self) -> None:
        """Take what the gateway has said."""
        while self.connection is not None and self.connection.downward:
            response = self.connection.downward.popleft()
            kind = response.WhichOneof("payload")
            if kind == "welcome":
                self.welcomed, self.sent = True, response.welcome.durable_sequence
                self._forget(response.welcome.durable_sequence)
            elif kind == "acknowledgement":
                self._forget(response.acknowledgement.durable_sequence)
            assert kind != "rejection", response

    def _forget(self, durable: int) -> None:
        assert durable <= max(self.contents, default=0), "more is acknowledged than was sent"
        self.durable = max(self.durable, durable)
        self.buffer.acknowledge(durable)


class World:
    """Everything together. Methods that end in `now` let the event loop come to rest."""

    def __init__(self, settings: AnalyzerSettings) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.statistics = IngestStatistics()
        self._settings = settings
        self.analyzer: Analyzer
        self.channel: RunChannel
        self.rest(self._live())

    def rest(self, work: Any = None) -> None:
        """Do something, and let everything that follows from it happen."""

        async def until_quiet() -> None:
            if work is not None:
                await work
            for _ in range(12):
                await asyncio.sleep(0)
            await self.channel.drain()
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(until_quiet())

    async def _live(self) -> None:
        self.analyzer = Analyzer(self._settings, self.clock)
        meter = Quotas({}, {}, run_bytes_per_second=1e9).of("", RUN)
        self.channel = RunChannel(self.analyzer, self.statistics, meter)

    async def _die(self) -> None:
        self.analyzer.dead = True
        self.analyzer.real._store.close()
        self.channel.lose("the analyzer was killed")
        await self._live()

    def kill_now(self) -> None:
        """The analyzer dies and is restored by another one."""
        self.rest(self._die())

    def connect_now(self, agent: Agent) -> None:
        """A new stream of this agent; the one before is broken, if that is not known already."""

        async def connect() -> None:
            agent.welcomed, agent.sent = False, agent.durable
            agent.connection = Connection(agent.greeting(), self.channel, self.statistics, self.clock)

        self.rest(connect())

    def snapshot_now(self) -> None:
        """Save, and tell the streams."""
        result = self.analyzer.real.flush()
        self.channel.acknowledge(result.durable)
        self.channel.notify(result.changes)
        self.rest()

    def tick_now(self) -> None:
        """Let a moment pass."""
        result = self.analyzer.poll()
        self.channel.notify(result.changes)
        self.rest()

    def close(self) -> None:
        """End it all."""

        async def end() -> None:
            self.channel.close("over")
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.loop.run_until_complete(end())
        self.analyzer.real._store.close()
        self.loop.close()
