"""Tells runs that are flat what the other runs of their family look like: the watched ones, and those in the store."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

from stallwatch.detector.core.family import Peer, family_of
from stallwatch.detector.core.views import RunView
from stallwatch.detector.engine.family import encode_family
from stallwatch.detector.errors import AnalyzerLostError, StoreError
from stallwatch.detector.service.live_run import LiveRun
from stallwatch.detector.store import Store
from stallwatch.detector.trouble import Trouble

COMPARE_SECONDS = 2.0
STORED_SECONDS = 60.0
"""How long what was read from the store is used, unless runs came or went."""
STORED_RUNS = 512
"""The latest runs of the store, among which the family is looked for."""
MOST_PEERS = 32

log = logging.getLogger(__name__)


class Families:
    """Compares runs. Nothing is done while none is flat, and nothing is sent that was sent before."""

    def __init__(self, store: Store, live: Callable[[], Sequence[LiveRun]]) -> None:
        self._store = store
        self._live = live
        self._told: dict[str, tuple[str, bytes]] = {}
        """By run, to which life of its analyzer what was told last."""
        self._stored: list[RunView] = []
        self._stored_for: frozenset[str] = frozenset()
        self._stored_at = -math.inf

    async def keep_comparing(self) -> None:
        """Compare, again and again."""
        trouble = Trouble(log)
        while True:
            await asyncio.sleep(COMPARE_SECONDS)
            try:
                await self.compare()
            except StoreError as error:
                trouble.failed(f"families are not compared: {error}")
            except Exception:
                log.exception("families are not compared")
            else:
                trouble.over("families are compared")

    async def compare(self) -> None:
        """Tell each flat run about its family, if that has changed."""
        live = {run.client.run: run for run in self._live()}
        self._told = {name: told for name, told in self._told.items() if name in live}
        flat = [run for run in live.values() if is_flat(run.shown.view)]
        if not flat:
            return
        views = [run.shown.view for run in live.values()]
        views += [view for view in await self._archived(frozenset(live)) if view.run not in live]
        for run in flat:
            await self._tell(run, encode_family(family(run.shown.view, views)))

    async def _tell(self, run: LiveRun, peers: bytes) -> None:
        name, generation = run.client.run, run.client.generation
        if self._told.get(name, (generation, b"")) == (generation, peers):
            return
        try:
            # Time must not pass faster for the analysis than what was received of the run.
            await run.client.compare(run.channel.horizon(time.time()), peers)
        except AnalyzerLostError:
            # The next poll finds out, and opens it again.
            return
        self._told[name] = (generation, peers)

    async def _archived(self, live: frozenset[str]) -> list[RunView]:
        now = time.monotonic()
        if live != self._stored_for or now - self._stored_at > STORED_SECONDS:
            stored = await asyncio.to_thread(self._store.runs, STORED_RUNS)
            self._stored = [each.view for each in stored]
            self._stored_for, self._stored_at = live, now
        return self._stored


def is_flat(view: RunView) -> bool:
    """Whether a run is on a plateau, or has ended on one."""
    return any(each.kind == "plateau" for each in view.findings)


def family(view: RunView, others: Iterable[RunView]) -> list[Peer]:
    """The other runs of a run's family, the latest first. Runs of which only the names are alike must be of the same model."""
    shared = family_of(view.run, view.group)
    found = [
        each
        for each in others
        if each.run != view.run
        and family_of(each.run, each.group) == shared
        and each.loss.value is not None
        and (view.group or _same_model(view, each))
    ]
    found.sort(key=lambda each: (-each.updated_at, each.run))
    # In an order of its own, so that what changes is what the runs say and not who spoke last.
    return sorted((peer(each) for each in found[:MOST_PEERS]), key=lambda each: each.run)


def peer(view: RunView) -> Peer:
    """A run as others see it: rounded, so that it changes only when something has changed."""
    since = next((each.since_step for each in view.findings if each.kind == "plateau"), -1)
    return Peer(
        run=view.run,
        flat=is_flat(view),
        since_step=since,
        level=_rounded(view.loss.value, 3),
        noise=_rounded(view.loss.noise, 2),
        learning_rate=_rounded(view.learning_rate, 4),
        peak_learning_rate=_rounded(view.peak_learning_rate, 4),
        effective_batch=_rounded(view.effective_batch_size, 6),
        world_size=view.world_size,
        optimizer=view.info.get("optimizer", ""),
        model=view.info.get("model", ""),
        parameters=view.parameters,
    )


def _same_model(one: RunView, other: RunView) -> bool:
    return one.info.get("model") == other.info.get("model") and one.parameters == other.parameters


def _rounded(value: float | None, digits: int) -> float:
    return math.nan if value is None else float(f"{value:.{digits}g}")
