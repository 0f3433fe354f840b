"""The gateway's end of an analyzer: awaitable calls, and one error for all the ways in which an actor can be gone."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
import time
from collections.abc import Sequence
from typing import Any

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.core.views import EventView, RankView, StateSpan
from stallwatch.detector.engine.actor import RunAnalyzer
from stallwatch.detector.engine.cluster import NAMESPACE, Cluster
from stallwatch.detector.engine.messages import AnalyzerSettings, IngestResult, PollResult
from stallwatch.detector.errors import AnalyzerLostError
from stallwatch.detector.store import Store

START_SECONDS = 60.0
"""For an actor to start: a process, its imports and the restore, on a busy machine."""
CALL_SECONDS = 60.0
RETRY_SECONDS = 0.2


class AnalyzerClient:
    """One run's analyzer, wherever it runs."""

    def __init__(self, run: str, handle: Any, generation: str) -> None:
        self.run = run
        self._handle = handle
        self.generation = generation
        """The life of the analyzer that inputs are meant for."""

    async def ingest(self, inputs: Sequence[bytes]) -> IngestResult:
        """Apply inputs in order. `AnalyzerLostError` when this generation of the analyzer is no more."""
        result: IngestResult = await self._call("ingest", self.generation, list(inputs))
        self._check(result.generation)
        return result

    async def poll(self, now: float) -> PollResult:
        """Let time pass and look at the run."""
        result: PollResult = await self._call("poll", now)
        self._check(result.generation)
        return result

    async def compare(self, now: float, family: bytes) -> None:
        """Tell it what the other runs of its family look like: a serialized `Family`."""
        self._check(await self._call("compare", now, family))

    async def flush(self) -> PollResult:
        """Make everything that was accepted durable."""
        result: PollResult = await self._call("flush")
        self._check(result.generation)
        return result

    async def series_names(self) -> tuple[str, ...]:
        """The names that `series` takes."""
        names: tuple[str, ...] = await self._call("series_names")
        return names

    async def series(
        self, name: str, from_step: int | None, to_step: int | None, points: int
    ) -> list[SeriesPoint]:
        """At most `points` points of a series."""
        rows: list[tuple[int, float, float]] = await self._call("series", name, from_step, to_step, points)
        return [SeriesPoint(*row) for row in rows]

    async def ranks(self) -> tuple[RankView, ...]:
        """The ranks of the run."""
        ranks: tuple[RankView, ...] = await self._call("ranks")
        return ranks

    async def happenings(self) -> tuple[tuple[EventView, ...], tuple[StateSpan, ...]]:
        """The run's events, and the states it was called."""
        result: tuple[tuple[EventView, ...], tuple[StateSpan, ...]] = await self._call("happenings")
        return result

    async def end(self) -> None:
        """Save everything and end the actor, for good: a later one restores what it saved."""
        import ray

        try:
            await self._call("close")
        finally:
            ray.kill(self._handle, no_restart=True)

    async def describe(self) -> tuple[str, str]:
        """The analyzer's generation, and the version of the code it runs."""
        description: tuple[str, str] = await self._call("describe")
        return description

    def _check(self, generation: str) -> None:
        if generation != self.generation:
            raise AnalyzerLostError(f"the analyzer of run {self.run} was restarted")

    async def _call(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import ActorUnschedulableError, RayActorError, RayTaskError

        try:
            reference = getattr(self._handle, method).remote(*arguments)
            return await asyncio.wait_for(asyncio.wrap_future(reference.future()), CALL_SECONDS)
        except RayTaskError:
            raise
        except (RayActorError, ActorUnschedulableError, asyncio.TimeoutError) as error:
            raise AnalyzerLostError(f"the analyzer of run {self.run} is not there") from error


class Analyzers:
    """Finds or starts the analyzers of runs."""

    def __init__(
        self, cluster: Cluster, store: Store, settings: AnalyzerSettings, config: AnalysisConfig | None = None
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._config = config
        self._pin_to_node = store.is_local
        # Services with stores of their own may share a cluster: their analyzers must not meet.
        self._suffix = hashlib.sha256(settings.store_url.encode()).hexdigest()[:12]

    @property
    def most_starts(self) -> int:
        """How many may be opened at the same time."""
        return self._cluster.most_starts

    async def open(self, run: str) -> AnalyzerClient:
        """The analyzer of a run, running; restored from the store when there is something to restore."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            client = AnalyzerClient(run, await asyncio.to_thread(self._handle, run), "")
            try:
                client.generation, version = await client.describe()
            except AnalyzerLostError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if version == self._settings.version:
                return client
            # Left behind by a service of another version.
            await client.end()

    def _handle(self, run: str) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {
            "name": f"{run}@{self._suffix}",
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,
            # In a cluster of their own right analyzers outlive a gateway, so that another one can go on with them.
            "lifetime": None if self._cluster.embedded else "detached",
        }
        if self._pin_to_node and not self._cluster.embedded:
            # A SQLite file is on this machine only.
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        elif not self._cluster.embedded:
            # They ask for no CPU, so Ray would put all of them on one node.
            options["scheduling_strategy"] = "SPREAD"
        return _actor_class().options(**options).remote(run, self._settings, self._config)


_MAKING = threading.Lock()
"""Runs are opened in threads, several at a time: a cache alone would let each of the first ones make its own."""


def _actor_class() -> Any:
    with _MAKING:
        return _made_actor_class()


@functools.cache
def _made_actor_class() -> Any:
    """The analyzer as Ray's actor, one for all runs: each that is made stays for ever, in this process and in Ray's head."""
    import ray

    return ray.remote(RunAnalyzer)
