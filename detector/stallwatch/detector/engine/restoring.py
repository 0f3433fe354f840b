"""The analysis of a run out of the store: from the newest snapshot that can be read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.ranks import SequenceLedger
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.migrations import FORMAT
from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store, StoredSnapshot

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Restored:
    """What was found in the store."""

    analysis: RunAnalysis
    stored: StoredSnapshot | None = None
    """What it was restored from; None when it is new."""
    safe: SequenceLedger = field(default_factory=SequenceLedger)
    """Batches that are in the snapshot before, too."""
    damaged: int = 0
    """Snapshots that could not be read and were set aside."""


def restore(store: Store, run: str, config: AnalysisConfig) -> Restored:
    """The analysis as last saved, or a new one. Snapshots that cannot be read are set aside, those of newer versions are left."""
    found: Restored | None = None
    damaged = 0
    for stored in store.snapshots(run, FORMAT):
        try:
            if found is not None:
                found.safe = snapshot.accepted(stored.data)
                break
            analysis = snapshot.decode(stored.data, config)
            # One that cannot be shown is damaged as well.
            analysis.view()
            found = Restored(analysis, stored)
        except snapshot.NewerSnapshotError as error:
            log.warning("run %s: snapshot %d is left alone: %s", run, stored.id, error)
        except Exception as error:
            damaged += 1
            log.error("run %s: snapshot %d is set aside: %s", run, stored.id, error)  # noqa: TRY400
            _set_aside(store, stored)
    if found is None:
        if store.snapshots_after(run, FORMAT):
            log.warning(
                "run %s: a newer version has saved it; it begins anew here, and what that version saved is kept for it",
                run,
            )
        found = Restored(RunAnalysis(run, config))
    found.damaged = damaged
    return found


def _set_aside(store: Store, stored: StoredSnapshot) -> None:
    try:
        store.set_aside(stored)
    except StoreError as error:
        # It is tried again, in vain, at the next start.
        log.error("run %s: snapshot %d stays: %s", stored.run, stored.id, error)  # noqa: TRY400
