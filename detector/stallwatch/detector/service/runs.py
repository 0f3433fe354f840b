"""All runs: the watched ones, each with an analyzer, and those in the store only."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.auth.access import EVERYBODY, Principal
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import EventView, RankView, RunView, StateSpan
from stallwatch.detector.engine.archive import Archive
from stallwatch.detector.engine.client import Analyzers
from stallwatch.detector.engine.messages import PollResult
from stallwatch.detector.errors import AnalyzerLostError, StallwatchError, TooManyRunsError
from stallwatch.detector.ingest.channel import QueueMemory, RunChannel
from stallwatch.detector.ingest.quota import Quotas
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.service.counters import SnapshotCounts
from stallwatch.detector.service.family import Families
from stallwatch.detector.service.live_run import LiveRun
from stallwatch.detector.service.places import Places
from stallwatch.detector.service.settings import Settings
from stallwatch.detector.store import Store
from stallwatch.detector.trouble import Trouble

SWEEP_SECONDS = 2.0
REOPEN_SECONDS = 5.0
"""Between two tries to open a run again."""
REOPENING = 2
"""Analyzers restored at the same time when the service starts."""
SPARED_SECONDS = 300.0
"""Where memory or a place is wanted a run whose ranks went without a goodbye leaves after so long."""
EVICTIONS = {
    "over": "it ended long enough ago",
    "room": "nobody speaks of it, and another run needs its place",
    "memory": "nobody speaks of it, and analyzers hold more memory than they may",
}
MIB = 1024 * 1024

log = logging.getLogger(__name__)

Listener = Callable[[str, Sequence[Finding]], None]


class Runs:
    """Opens, shows, reopens and evicts runs."""

    def __init__(
        self,
        store: Store,
        analyzers: Analyzers,
        statistics: IngestStatistics,
        settings: Settings,
        quotas: Quotas,
    ) -> None:
        self._store = store
        self._analyzers = analyzers
        self._archive = Archive(store)
        self._statistics = statistics
        self._settings = settings
        self._quotas = quotas
        self._queues = QueueMemory(int(settings.max_queued_mib * MIB))
        self._live: dict[str, LiveRun] = {}
        self._families = Families(store, lambda: tuple(self._live.values()))
        self._shown: dict[str, PollResult] = {}
        self._opening: dict[str, asyncio.Task[LiveRun]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._places = Places(settings.max_runs)
        starts = analyzers.most_starts
        self._doors = asyncio.Semaphore(starts)
        # Those of one account wait for each other, so that others have only what is at the doors before them.
        self._doors_of = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(max(1, starts - 1)))
        self._doors_of[EVERYBODY.name] = asyncio.Semaphore(starts)
        self.snapshots = SnapshotCounts(archive=self._archive)
        self.evictions = dict.fromkeys(EVICTIONS, 0)
        """Runs that left memory, by reason."""
        self.restarts = 0
        """How often an analyzer was lost and had to be opened again."""
        self.listeners: list[Listener] = []
        """Told of findings that changed."""

    async def start(self) -> None:
        """Take up again the runs that were not over when the service ended."""
        oldest = time.time() - self._settings.silent_run_seconds
        stored = await asyncio.to_thread(self._store.runs)
        names = [run.run for run in stored if run.state != "finished" and run.updated_at > oldest]
        gate = asyncio.Semaphore(REOPENING)

        async def reopen(name: str) -> None:
            async with gate:
                await self._reopen(name)

        for name in names[: self._settings.max_runs]:
            self._spawn(reopen(name))
        self._spawn(self._sweep())
        self._spawn(self._families.keep_comparing())

    async def open_channel(self, run: str, account: Principal = EVERYBODY) -> RunChannel:
        """The channel of a run; its analyzer is started, or restored, when there is none."""
        self._places.claim(run, account)
        if (live := self._live.get(run)) is None:
            if (opening := self._opening.get(run)) is None:
                opening = asyncio.create_task(self._open(run, account), name=f"open {run}")
                self._opening[run] = opening
                opening.add_done_callback(lambda done: self._opened(run, done))
            # Agents give up after some seconds and come back: a start that they all wait for must outlive each of them.
            live = await asyncio.shield(opening)
        return live.channel

    async def stop(self, seconds: float) -> None:
        """Apply and save everything that was accepted, then end the analyzers."""
        self._closing = True
        for task in (*self._tasks, *self._opening.values()):
            task.cancel()
        live = tuple(self._live.values())
        for run in live:
            run.stop_polling()
        flushing = [asyncio.create_task(run.flush()) for run in live]
        if flushing:
            await asyncio.wait(flushing, timeout=seconds)
        for run in live:
            run.channel.close("the detector is shutting down")
        await asyncio.gather(*(self._end(run) for run in live))

    def shown(self) -> list[PollResult]:
        """The watched runs as they were at the last poll, by name."""
        return [self._shown[name] for name in sorted(self._shown)]

    async def views(self) -> list[RunView]:
        """Every run there has been, the latest first."""
        stored = {run.run: run.view for run in await asyncio.to_thread(self._store.runs)}
        views = stored | {result.view.run: result.view for result in self._shown.values()}
        return sorted(views.values(), key=lambda view: (-view.updated_at, view.run))

    async def view(self, run: str) -> RunView | None:
        """One run, or None when there is none of that name."""
        if (result := self._shown.get(run)) is not None:
            return result.view
        stored = await asyncio.to_thread(self._store.run, run)
        return stored.view if stored is not None else None

    async def findings(self, run: str) -> Sequence[Finding]:
        """All findings of a run, the oldest first."""
        if (result := self._shown.get(run)) is not None:
            return result.findings
        return await asyncio.to_thread(self._store.findings, run)

    async def ranks(self, run: str) -> Sequence[RankView]:
        """The ranks of a run."""
        if (live := self._live.get(run)) is not None:
            return await live.client.ranks()
        analysis = await asyncio.to_thread(self._archive.analysis, run)
        return analysis.ranks() if analysis is not None else ()

    async def events(self, run: str) -> Sequence[EventView]:
        """What changed while the run ran."""
        return (await self._happenings(run))[0]

    async def states(self, run: str) -> Sequence[StateSpan]:
        """The states that the run was called."""
        return (await self._happenings(run))[1]

    async def series_names(self, run: str) -> Sequence[str]:
        """The series that a run has."""
        if (live := self._live.get(run)) is not None:
            return await live.client.series_names()
        analysis = await asyncio.to_thread(self._archive.analysis, run)
        return analysis.series_names() if analysis is not None else ()

    async def series(
        self, run: str, name: str, from_step: int | None, to_step: int | None, points: int
    ) -> Sequence[SeriesPoint]:
        """A series of a run."""
        if (live := self._live.get(run)) is not None:
            return await live.client.series(name, from_step, to_step, points)
        analysis = await asyncio.to_thread(self._archive.analysis, run)
        return analysis.series(name, from_step, to_step, points) if analysis is not None else ()

    async def _happenings(self, run: str) -> tuple[Sequence[EventView], Sequence[StateSpan]]:
        if (live := self._live.get(run)) is not None:
            return await live.client.happenings()
        analysis = await asyncio.to_thread(self._archive.analysis, run)
        return (analysis.events(), analysis.states()) if analysis is not None else ((), ())

    async def _open(self, run: str, account: Principal) -> LiveRun:
        if self._closing:
            raise AnalyzerLostError("the detector is shutting down")
        async with self._doors_of[account.name], self._doors:
            await self._make_room(account)
            client = await self._analyzers.open(run)
            first = await client.poll(time.time())

        def changed(findings: Sequence[Finding]) -> None:
            for listener in self.listeners:
                listener(run, findings)

        def polled(result: PollResult) -> None:
            # A poll that was under way when the run was evicted must not bring it back.
            if run in self._live:
                self.snapshots.take(self._shown.get(run), result)
                self._shown[run] = result

        channel = RunChannel(
            client,
            self._statistics,
            self._quotas.of("", run),
            changed,
            lambda reason: self._lost(run, reason),
            self._queues,
        )
        self._live[run] = live = LiveRun(client, channel, first, polled)
        live.take(first)
        return live

    def _opened(self, run: str, done: asyncio.Task[LiveRun]) -> None:
        self._opening.pop(run, None)
        if run not in self._live:
            self._places.leave(run)
        if not done.cancelled() and (error := done.exception()) is not None:
            # Whoever waited for it is told as well; there may be nobody left.
            log.info("run %s was not opened: %s", run, error)

    async def _make_room(self, account: Principal) -> None:
        if self._places.is_full(account):
            own = (self._live[run] for run in self._places.runs_of(account) if run in self._live)
            if not await self._spare_one(own, "room"):
                raise self._places.refusal(account)
        if len(self._live) >= self._settings.max_runs and not await self._spare_one(
            self._live.values(), "room"
        ):
            raise TooManyRunsError(
                f"as many runs are watched as are allowed at a time ({self._settings.max_runs}): wait for one to "
                "finish, or raise --max-runs"
            )
        if not await self._spare_memory():
            raise TooManyRunsError(
                f"analyzers hold {self.memory_bytes() / MIB:,.0f} MiB, and {self._settings.max_memory_mib:,.0f} MiB are "
                "allowed: wait for a run to finish, or raise STALLWATCH_MAX_MEMORY_MIB"
            )

    def memory_bytes(self) -> int:
        """What the analyzers hold together, as they said at their last poll."""
        return sum(result.memory_bytes for result in self._shown.values())

    async def _spare_memory(self) -> bool:
        """Let runs go of which nobody speaks until analyzers hold no more than they may; whether that was enough."""
        most = self._settings.max_memory_mib
        while most is not None and self.memory_bytes() > most * MIB:
            if not await self._spare_one(self._live.values(), "memory"):
                return False
        return True

    async def _spare_one(self, runs: Iterable[LiveRun], reason: str) -> bool:
        """Let one of these runs go: a finished one, or the one that has been silent for longest; whether there was any."""
        silent_seconds = min(SPARED_SECONDS, self._settings.silent_run_seconds)
        quiet = [run for run in runs if run.is_over(0.0, silent_seconds)]
        if not quiet:
            return False
        await self._evict(
            max(quiet, key=lambda run: (run.shown.view.state == "finished", run.shown.idle_seconds)), reason
        )
        return True

    def _lost(self, run: str, reason: str) -> None:
        log.warning("run %s: %s", run, reason)
        if (live := self._live.pop(run, None)) is not None:
            live.stop_polling()
        self.restarts += 1
        if not self._closing:
            self._spawn(self._reopen(run))

    async def _reopen(self, run: str) -> None:
        """Open a run again that has no agent to ask for it, or will have one in a moment."""
        trouble = Trouble(log)
        while not self._closing:
            try:
                await self.open_channel(run)
            except TooManyRunsError:
                # It is read from the store until one of its agents comes back.
                self._shown.pop(run, None)
                return
            except StallwatchError as error:
                trouble.failed(f"run {run}: its analyzer cannot be opened yet: {error}")
            except Exception:
                log.exception("run %s: its analyzer cannot be opened", run)
            else:
                trouble.over(f"run {run}: its analyzer is open")
                return
            await asyncio.sleep(REOPEN_SECONDS)

    async def _sweep(self) -> None:
        """Evict what is over."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for live in tuple(self._live.values()):
                if live.is_over(self._settings.finished_run_seconds, self._settings.silent_run_seconds):
                    try:
                        await self._evict(live, "over")
                    except Exception:
                        # One run whose analyzer cannot be ended must not keep all later ones in memory.
                        log.exception("run %s: eviction failed", live.client.run)
            try:
                await self._spare_memory()
            except Exception:
                log.exception("memory cannot be spared")

    async def _evict(self, live: LiveRun, reason: str) -> None:
        run = live.client.run
        if self._live.get(run) is not live:
            return
        self.evictions[reason] += 1
        log.info("run %s leaves memory (%s) and is read from the store from now on", run, EVICTIONS[reason])
        self._live.pop(run, None)
        self._shown.pop(run, None)
        self._places.leave(run)
        live.stop_polling()
        live.channel.close(f"run {run} is over")
        await self._end(live)

    async def _end(self, live: LiveRun) -> None:
        try:
            await live.client.end()
        except AnalyzerLostError as error:
            log.warning("%s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
