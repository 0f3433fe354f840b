"""The analyzer of one run: the pure analysis, with a life. Ray runs it as an actor, restarts it, and it restores itself."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import EventView, RankView, StateSpan
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.engine.durability import Durability, Mark
from stallwatch.detector.engine.memory import resident_bytes
from stallwatch.detector.engine.messages import AnalyzerSettings, IngestResult, PollResult, RankKey
from stallwatch.detector.engine.migrations import FORMAT
from stallwatch.detector.engine.pace import Pace
from stallwatch.detector.engine.recording import Recorder
from stallwatch.detector.engine.restoring import restore
from stallwatch.detector.engine.saving import Saver
from stallwatch.detector.store import Store
from stallwatch.detector.trouble import Trouble
from stallwatch.v1 import analyzer_pb2

BUSY_SECONDS = 2.0
"""How long the thread that writes snapshots waits for another process's transaction."""
WRITE_SECONDS = 0.05
"""How long a poll waits for a snapshot to be on disk when somebody who said goodbye, and the training for its agent, waits for it.

Otherwise the analyzer goes on with what agents send, and they hear of it with the next."""
SNAPSHOT_SHARE = 0.05
"""Snapshots may take at most this share of the time: long ones are taken less often."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Saving:
    """A snapshot that is being written."""

    mark: Mark
    findings: dict[str, Finding]
    size: int
    seconds: float
    """What it took to make."""


class RunAnalyzer:
    """Applies inputs one after another, and saves the analysis together with what it has accepted.

    Exactly once: what a batch did to the analysis and the fact that it was accepted are in one snapshot. After a restart
    both are as the last snapshot says, and agents send again what came after it.

    Durable is what the snapshot before the last one holds too: when the last one turns out to be damaged, agents still have all
    that the one before lacks.
    """

    def __init__(self, run: str, settings: AnalyzerSettings, config: AnalysisConfig | None = None) -> None:
        self.run = run
        self.settings = settings
        self.config = config or AnalysisConfig()
        self.generation = uuid.uuid4().hex
        self._store = Store(settings.store_url, busy_seconds=BUSY_SECONDS)
        self._saver = Saver()
        self._trouble = Trouble(log, logging.ERROR)
        self._unsaved: dict[str, Finding] = {}
        self._saving: _Saving | None = None
        self._unpolled: dict[str, Finding] = {}
        self._logged_failures: dict[str, str] = {}
        self._now = 0.0
        self._heard_at = 0.0
        self._dirty = self._second_is_due = False
        self._next_snapshot_at = 0.0
        self._snapshots = self._snapshot_failures = self._snapshot_bytes = 0
        self._snapshot_seconds = 0.0
        restored = restore(self._store, run, self.config)
        self._analysis = restored.analysis
        self._durability = Durability(self._analysis.accepted_sequence, restored.safe)
        self._damaged = restored.damaged
        if restored.stored is not None:
            self._heard_at, self._now = self._analysis.state.updated_at, self._analysis.state.now
        self._recorder = (
            Recorder(
                Path(settings.record_directory),
                run,
                restored.stored.recording_bytes if restored.stored else None,
                restored=restored.stored is not None,
            )
            if settings.record_directory
            else None
        )

    def describe(self) -> tuple[str, str]:
        """The generation, and the version of the code that runs here."""
        return self.generation, self.settings.version

    def ingest(self, generation: str, inputs: Sequence[bytes]) -> IngestResult:
        """Apply serialized `AnalyzerInput`s that were meant for this generation, in order."""
        if generation != self.generation:
            return IngestResult(self.generation, applied=False)
        started = time.perf_counter()
        self._settle(0.0)
        touched: dict[RankKey, None] = {}
        duplicates = failures = 0
        pace = Pace()
        for data in inputs:
            pace.breathe()
            item = analyzer_pb2.AnalyzerInput.FromString(data)
            key = (item.rank, item.incarnation)
            touched[key] = None
            self._heard_at = max(self._heard_at, item.received_unix_seconds)
            self._durability.hear(key)
            outcome = self._apply(item)
            if item.WhichOneof("input") == "goodbye":
                self._durability.part(key)
            duplicates += outcome is False
            failures += outcome is None
        self._collect_changes()
        return IngestResult(
            self.generation,
            applied=True,
            progress=tuple(self._durability.progress(key) for key in touched),
            changes=self._take_unpolled(),
            duplicates=duplicates,
            failures=failures,
            seconds=time.perf_counter() - started,
        )

    def poll(self, now: float) -> PollResult:
        """Let time pass, save when it is due, and show the run."""
        self._apply(analyzer_pb2.AnalyzerInput(received_unix_seconds=now, tick=analyzer_pb2.Tick()))
        self._collect_changes()
        if self._recorder is not None:
            # So that what is shown can be replayed.
            self._recorder.flush()
        self._settle(0.0)
        if self._second_is_due or time.monotonic() >= self._next_snapshot_at:
            self._save(WRITE_SECONDS if self._durability.someone_leaves else 0.0)
        return self._show()

    def compare(self, now: float, family: bytes) -> str:
        """Take a serialized `Family`, what the other runs look like; return the generation that did."""
        peers = analyzer_pb2.Family.FromString(family)
        self._apply(analyzer_pb2.AnalyzerInput(received_unix_seconds=now, family=peers))
        self._collect_changes()
        return self.generation

    def flush(self) -> PollResult:
        """Save now, whatever was saved when."""
        self._settle(None)
        self._save(None)
        return self._show()

    def ranks(self) -> tuple[RankView, ...]:
        """The ranks: asked for when somebody looks, for a poll of thousands would be a long message a second."""
        return self._analysis.ranks()

    def series_names(self) -> tuple[str, ...]:
        """The series that `series` knows."""
        return self._analysis.series_names()

    def series(
        self, name: str, from_step: int | None, to_step: int | None, points: int
    ) -> list[tuple[int, float, float]]:
        """Step, value and weight of at most `points` points of a series.

        Of two thousand, objects take 10 ms to pickle and as long to come to life again, and tuples 0.4 ms.
        """
        found = self._analysis.series(name, from_step, to_step, points)
        return [(point.step, point.value, point.weight) for point in found]

    def happenings(self) -> tuple[tuple[EventView, ...], tuple[StateSpan, ...]]:
        """The run's events, and the states it was called."""
        return self._analysis.events(), self._analysis.states()

    def close(self) -> None:
        """Save, and let go of files and connections."""
        self.flush()
        if self._recorder is not None:
            self._recorder.close()
        self._saver.close()
        self._store.close()

    def _apply(self, item: analyzer_pb2.AnalyzerInput) -> bool | None:
        """False for a duplicate; None when the analysis failed on it: one bad input must not end the watch over a run."""
        # Gateways have clocks of their own; for the analysis time does not go back.
        self._now = item.received_unix_seconds = max(self._now, item.received_unix_seconds)
        if self._recorder is not None:
            self._recorder.write(item.SerializeToString())
        # Ticks alone are not worth a snapshot: after a restore they come again.
        self._dirty = self._dirty or item.WhichOneof("input") != "tick"
        try:
            return apply(self._analysis, item)
        except Exception:
            log.exception("run %s: the analysis failed on a %s", self.run, item.WhichOneof("input"))
            return None

    def _collect_changes(self) -> None:
        for finding in self._analysis.changes():
            self._dirty = True
            self._unsaved[finding.id] = finding
            self._unpolled[finding.id] = finding
        # A check that raises is a bug, and silent otherwise: the others go on without it.
        for name, error in self._analysis.failures.items():
            if self._logged_failures.get(name) != error:
                self._logged_failures[name] = error
                log.error("run %s: the check or signal %s failed: %s", self.run, name, error)

    def _take_unpolled(self) -> tuple[Finding, ...]:
        changes = tuple(self._unpolled.values())
        self._unpolled.clear()
        return changes

    def _save(self, wait: float | None) -> None:
        """Save what is not safe yet, and wait so long for it to be."""
        if self._saver.is_busy or not (self._dirty or self._durability.is_behind):
            return
        self._begin_snapshot()
        if self._settle(wait) and self._second_is_due:
            self._begin_snapshot()
            self._settle(wait)

    def _begin_snapshot(self) -> None:
        started = time.perf_counter()
        try:
            recorded = self._recorder.flush() if self._recorder is not None else None
        except OSError as error:
            self._fail(str(error))
            return
        data = snapshot.encode(self._analysis)
        self._saving = _Saving(
            self._durability.mark(), self._unsaved, len(data), time.perf_counter() - started
        )
        write = partial(
            self._store.save,
            self._analysis.view(),
            data,
            tuple(self._unsaved.values()),
            taken_at=self._now,
            recording_bytes=recorded,
            snapshot_format=FORMAT,
        )
        self._unsaved, self._dirty, self._second_is_due = {}, False, False
        self._saver.begin(write)

    def _settle(self, wait: float | None) -> bool:
        """Take note of a snapshot that is on disk now, or at most so many seconds later; whether one is."""
        written = self._saver.end(wait)
        if written is None:
            return False
        assert self._saving is not None
        saved, self._saving = self._saving, None
        if written.problem:
            self._dirty = True
            self._unsaved = saved.findings | self._unsaved
            self._fail(written.problem)
            return False
        self._trouble.over(f"run {self.run}: a snapshot is written")
        self._snapshots += 1
        self._snapshot_bytes = saved.size
        self._snapshot_seconds = saved.seconds + written.seconds
        pause = max(self.settings.snapshot_seconds, self._snapshot_seconds / SNAPSHOT_SHARE)
        # Polls come at a steady pace: a little early is better than one pace late.
        self._next_snapshot_at = time.monotonic() + 0.9 * pause
        self._second_is_due = self._durability.confirm(saved.mark)
        return True

    def _fail(self, problem: str) -> None:
        # Agents keep what is not durable, so a store that is away for a while costs nothing but their buffers.
        self._snapshot_failures += 1
        self._next_snapshot_at = time.monotonic() + self.settings.snapshot_seconds
        self._trouble.failed(f"run {self.run}: no snapshot: {problem}")

    def _show(self) -> PollResult:
        return PollResult(
            generation=self.generation,
            view=self._analysis.view(),
            findings=self._analysis.findings(),
            changes=self._take_unpolled(),
            durable=self._durability.moved(),
            snapshots=self._snapshots,
            snapshot_failures=self._snapshot_failures,
            snapshots_damaged=self._damaged,
            snapshot_bytes=self._snapshot_bytes,
            snapshot_seconds=self._snapshot_seconds,
            idle_seconds=self._now - self._heard_at if self._heard_at else math.inf,
            memory_bytes=resident_bytes(),
        )
