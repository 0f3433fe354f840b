"""Runs that no analyzer holds any more, read from the store."""

from __future__ import annotations

import logging
from collections import OrderedDict
from threading import Lock

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine import snapshot
from stallwatch.detector.store import Store

KEPT = 4
"""Decoded analyses: reading one takes a moment, and who looks at a run asks several times."""

log = logging.getLogger(__name__)


class Archive:
    """Restores the analysis of a run for reading only. Its calls block: make them from a worker thread."""

    def __init__(self, store: Store, config: AnalysisConfig | None = None) -> None:
        self._store = store
        self._config = config or AnalysisConfig()
        self._decoded: OrderedDict[tuple[str, int], RunAnalysis] = OrderedDict()
        self._lock = Lock()

    def analysis(self, run: str) -> RunAnalysis | None:
        """The analysis as last saved, or None when there is none of that run."""
        with self._lock:
            for stored in self._store.snapshots(run):
                key = (run, stored.id)
                if key in self._decoded:
                    self._decoded.move_to_end(key)
                    return self._decoded[key]
                try:
                    analysis = snapshot.decode(stored.data, self._config)
                except Exception as error:
                    log.error("run %s: snapshot %d is set aside: %s", run, stored.id, error)  # noqa: TRY400
                    self._store.set_aside(stored)
                    continue
                self._decoded[key] = analysis
                while len(self._decoded) > KEPT:
                    self._decoded.popitem(last=False)
                return analysis
        return None
