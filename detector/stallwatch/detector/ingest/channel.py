"""The way from the streams of a run to its analyzer: one bounded queue, one call in flight, order kept."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.engine.messages import IngestResult, Progress, RankKey
from stallwatch.detector.errors import AnalyzerLostError
from stallwatch.detector.ingest.outbox import OUTBOX_MESSAGES, notice_of
from stallwatch.detector.ingest.quota import Meter, metered
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb

QUEUE_INPUTS = 2048
QUEUE_BYTES = 16 * 1024 * 1024
LEAST_QUEUE_BYTES = 256 * 1024
"""Of each run, however much those of others hold: what is received of a run that sends little is always taken."""
TOLD_AT_ONCE = 16
"""Streams that are told what is new before others have their turn: each is then written to."""
CALL_INPUTS = 256
CALL_BYTES = 1024 * 1024
"""Per call of the analyzer: so small that polls in between are not held up for long."""

log = logging.getLogger(__name__)


class Analyzer(Protocol):
    """The part of an analyzer that a channel feeds."""

    run: str

    async def ingest(self, inputs: Sequence[bytes]) -> IngestResult:
        """Apply inputs in order."""
        ...


class Listener(Protocol):
    """A stream, as its run's channel sees it."""

    def acknowledge(self, progress: Progress) -> None:
        """How far the analyzer has come with this rank."""
        ...

    def notify(self, notices: Sequence[pb.StreamResponse]) -> None:
        """Findings of the run that changed."""
        ...

    def end(self, reason: str) -> None:
        """The stream must be ended; the agent comes back."""
        ...

    def supersede(self) -> None:
        """Another stream of the same rank process has taken over."""
        ...


@dataclass(slots=True)
class _News:
    """What one stream has not been told yet."""

    progress: Progress | None = None
    notices: tuple[pb.StreamResponse, ...] = ()


class QueueMemory:
    """What the queues of all runs hold together, and what one may hold while that is too much."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held: dict[object, int] = {}
        self._sum = 0

    def hold(self, queue: object, size: int) -> None:
        """A queue holds so many bytes now."""
        self.leave(queue)
        if size:
            self._held[queue] = size
            self._sum += size

    def leave(self, queue: object) -> None:
        """A queue holds nothing."""
        self._sum -= self._held.pop(queue, 0)

    def share(self) -> float:
        """Bytes that one queue may hold now: without end while there is room, else its part of it."""
        return math.inf if self._sum < self._most else self._most / len(self._held)


class RunChannel:
    """Queue, pump and open streams of one run, for one life of its analyzer."""

    def __init__(
        self,
        analyzer: Analyzer,
        statistics: IngestStatistics,
        meter: Meter,
        on_changes: Callable[[Sequence[Finding]], None] = lambda _changes: None,
        on_lost: Callable[[str], None] = lambda _reason: None,
        memory: QueueMemory | None = None,
    ) -> None:
        self.run = analyzer.run
        self.meter = meter
        """What the run takes of the gateway."""
        self._analyzer = analyzer
        self._statistics = statistics
        self._on_changes = on_changes
        self._on_lost = on_lost
        self._queue: deque[tuple[bytes, float]] = deque()
        self._calling_since: float | None = None
        self._bytes = 0
        self._inputs = 0
        self._work = asyncio.Event()
        self._space = asyncio.Event()
        self._entry = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._listeners: dict[RankKey, Listener] = {}
        self._lost: str | None = None
        self._memory = memory or QueueMemory(QUEUE_BYTES)
        self._held: dict[object, float] = {}
        self._untold: dict[RankKey, _News] = {}
        self._news = asyncio.Event()
        self.queued = 0
        """Inputs, so far."""
        self._tasks = (
            asyncio.create_task(metered(meter, self._run_pump()), name=f"pump {self.run}"),
            asyncio.create_task(metered(meter, self._tell()), name=f"tell {self.run}"),
        )

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    @property
    def is_idle(self) -> bool:
        """Whether the analyzer has everything that was queued, or is gone."""
        return self._idle.is_set()

    def attach(self, key: RankKey, listener: Listener) -> None:
        """Add the stream of a rank process; an older one of the same process is ended."""
        if self._lost is not None:
            raise AnalyzerLostError(self._lost)
        if (older := self._listeners.get(key)) is not None:
            older.supersede()
        self._listeners[key] = listener

    def detach(self, key: RankKey, listener: Listener) -> bool:
        """Remove a stream; False when another one has taken over for it."""
        if self._listeners.get(key) is not listener:
            return False
        del self._listeners[key]
        return True

    async def put(self, item: analyzer_pb2.AnalyzerInput) -> float:
        """Queue an input, waiting while the queue is full; return for how many seconds that was."""
        waited = 0.0
        if self._is_full() or self._is_too_much() or self._entry.locked():
            waited = await self._wait_for_room()
        self.put_now(item)
        return waited

    def put_now(self, item: analyzer_pb2.AnalyzerInput) -> None:
        """Queue an input, however full the queue is: for the few that end a stream."""
        if self._lost is not None:
            raise AnalyzerLostError(self._lost)
        data = item.SerializeToString()
        self._queue.append((data, item.received_unix_seconds))
        self._count(1, len(data))
        self.queued += 1
        self._idle.clear()
        self._work.set()

    def acknowledge(self, progress: Sequence[Progress]) -> None:
        """Tell streams how far their ranks have come; the last word counts."""
        for entry in progress:
            self._news_of((entry.rank, entry.incarnation)).progress = entry

    @contextmanager
    def holding(self, now: float) -> Iterator[None]:
        """While a stream that has something to say is not listened to."""
        token = object()
        self._held[token] = now
        try:
            yield
        finally:
            del self._held[token]

    def notify(self, findings: Sequence[Finding]) -> None:
        """Tell all streams about findings that changed."""
        if not findings:
            return
        self._on_changes(findings)
        notices = [notice_of(finding) for finding in findings]
        for key in self._listeners:
            news = self._news_of(key)
            news.notices = (*news.notices, *notices)[-OUTBOX_MESSAGES:]

    def horizon(self, now: float) -> float:
        """The time up to which the analyzer has, or is about to have, everything that was received.

        Beyond it nobody may be called silent: what they said may be waiting here.
        """
        # In the order in which they began to wait.
        unheard = min(now, next(iter(self._held.values()), now))
        if self._calling_since is not None:
            return min(unheard, self._calling_since)
        return min(unheard, self._queue[0][1]) if self._queue else unheard

    async def drain(self) -> None:
        """Wait until everything queued was applied, or cannot be any more."""
        await self._idle.wait()

    def lose(self, reason: str) -> None:
        """The analyzer is gone, or another one: what is queued is void, and agents must send again what was not durable."""
        if self._lost is not None:
            return
        self._lost = reason
        self._queue.clear()
        self._count(-self._inputs, -self._bytes)
        self._space.set()
        self._idle.set()
        for listener in tuple(self._listeners.values()):
            listener.end(reason)
        self._on_lost(reason)
        self._memory.leave(self)
        for task in self._tasks:
            task.cancel()

    def close(self, reason: str) -> None:
        """End all streams and the pump."""
        self._on_lost = lambda _reason: None
        self.lose(reason)

    async def _run_pump(self) -> None:
        while True:
            await self._work.wait()
            await self.meter.turn()
            self._calling_since = self._queue[0][1]
            call, size = self._next_call()
            try:
                result = await self._analyzer.ingest(call)
            except AnalyzerLostError as error:
                self.lose(str(error))
                return
            except Exception as error:
                log.exception("run %s: the analyzer failed", self.run)
                self.lose(f"the analyzer of run {self.run} failed: {error}")
                return
            self._statistics.inputs_applied += len(call)
            self._statistics.apply_seconds += result.seconds
            self._statistics.duplicates += result.duplicates
            self._statistics.failures += result.failures
            self._calling_since = None
            self._count(-len(call), -size)
            self._space.set()
            self.acknowledge(result.progress)
            self.notify(result.changes)
            if not self._queue:
                self._work.clear()
                self._idle.set()

    async def _wait_for_room(self) -> float:
        """One stream after another: if room woke all of thousands, they would hold the event loop up to find it taken."""
        started = time.monotonic()
        crowded = 0.0
        async with self._entry:
            while self._lost is None and ((full := self._is_full()) or self._is_too_much()):
                since = time.monotonic()
                self._space.clear()
                await self._space.wait()
                crowded += 0.0 if full else time.monotonic() - since
        waited = time.monotonic() - started
        self._statistics.backpressure_seconds += waited - crowded
        self._statistics.throttled["memory"] += crowded
        return waited

    async def _tell(self) -> None:
        """Tell streams what is new, some at a time: of thousands, each is a task that wakes and writes."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._untold:
                for key in tuple(itertools.islice(self._untold, TOLD_AT_ONCE)):
                    news = self._untold.pop(key)
                    if (listener := self._listeners.get(key)) is not None:
                        if news.progress is not None:
                            listener.acknowledge(news.progress)
                        listener.notify(news.notices)
                await asyncio.sleep(0)
                await self.meter.turn()

    def _news_of(self, key: RankKey) -> _News:
        """What this stream is to be told next."""
        self._news.set()
        return self._untold.setdefault(key, _News())

    def _is_full(self) -> bool:
        return self._inputs >= QUEUE_INPUTS or self._bytes >= QUEUE_BYTES

    def _is_too_much(self) -> bool:
        """Whether all queues together are too long, and this one is among those that make them so."""
        return self._bytes > LEAST_QUEUE_BYTES and self._bytes >= self._memory.share()

    def _next_call(self) -> tuple[list[bytes], int]:
        call: list[bytes] = []
        size = 0
        while (
            self._queue
            and len(call) < CALL_INPUTS
            and (not call or size + len(self._queue[0][0]) <= CALL_BYTES)
        ):
            call.append(self._queue.popleft()[0])
            size += len(call[-1])
        return call, size

    def _count(self, inputs: int, size: int) -> None:
        self._inputs += inputs
        self._bytes += size
        self._memory.hold(self, self._bytes)
        self._statistics.queued_inputs += inputs
        self._statistics.queued_bytes += size
