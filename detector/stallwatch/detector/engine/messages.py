"""What goes between a gateway and an analyzer: plain data, so that any process of the cluster can read it."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RunView

RankKey = tuple[int, int]
"""A rank process: rank and incarnation."""


@dataclass(frozen=True, slots=True)
class AnalyzerSettings:
    """What an analyzer needs to know about where it runs."""

    store_url: str
    snapshot_seconds: float = 1.0
    """Least time between two snapshots of a run; longer when snapshots take long."""
    record_directory: str | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one rank process has come."""

    rank: int
    incarnation: int
    accepted: int
    durable: int
    """What the last two snapshots hold: if one is lost, the other is left."""
    parted: bool = True
    """Whether its goodbye is durable; True as well before it has said one."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of some inputs."""

    generation: str
    """Identity of this life of the analyzer; another one means that unsaved state was lost."""
    applied: bool
    """False when the inputs were meant for another generation and nothing was done with them."""
    progress: tuple[Progress, ...] = ()
    changes: tuple[Finding, ...] = ()
    duplicates: int = 0
    failures: int = 0
    """Inputs that the analysis failed on: a bug, logged where the analyzer runs."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PollResult:
    """What the run looks like now."""

    generation: str
    view: RunView
    findings: tuple[Finding, ...]
    changes: tuple[Finding, ...]
    durable: tuple[Progress, ...]
    """The rank processes whose durable sequence has moved lately."""
    snapshots: int
    """Saved in this life, and below: failed, size and duration of the last."""
    snapshot_failures: int
    snapshot_bytes: int
    snapshot_seconds: float
    idle_seconds: float
    """Since the last message of a rank, by the analysis's time."""
    snapshots_damaged: int = 0
    """Found when this life began, and set aside."""
    memory_bytes: int = 0
    """Of the analyzer's process."""
