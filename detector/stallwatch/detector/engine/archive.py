"""Runs that no analyzer holds any more, read from the store."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine.migrations import FORMAT
from stallwatch.detector.engine.restoring import restore
from stallwatch.detector.store import Store

KEPT = 4
"""Decoded analyses: reading one takes a moment, and who looks at a run asks several times."""


class Archive:
    """Restores the analysis of a run for reading only. Its calls block: make them from a worker thread."""

    def __init__(self, store: Store, config: AnalysisConfig | None = None) -> None:
        self._store = store
        self._config = config or AnalysisConfig()
        self._decoded: OrderedDict[tuple[str, int], RunAnalysis] = OrderedDict()
        self._lock = Lock()
        self.damaged = 0
        """Snapshots that could not be read and were set aside."""

    def analysis(self, run: str) -> RunAnalysis | None:
        """The analysis as last saved, or None when there is none of that run."""
        with self._lock:
            newest = next((stored.id for stored in self._store.snapshots(run, FORMAT)), None)
            if newest is None:
                return None
            key = (run, newest)
            if key in self._decoded:
                self._decoded.move_to_end(key)
                return self._decoded[key]
            restored = restore(self._store, run, self._config)
            self.damaged += restored.damaged
            if restored.stored is None:
                return None
            self._decoded[run, restored.stored.id] = restored.analysis
            while len(self._decoded) > KEPT:
                self._decoded.popitem(last=False)
            return restored.analysis
