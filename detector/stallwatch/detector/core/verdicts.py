"""The one shape of a decision: what a check concludes, with its sentence and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Severity(str, Enum):
    """How much a finding matters, as Prometheus label value and exit code decide it."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical: for comparing severities."""
        return ("info", "warning", "critical").index(self.value)


EvidenceValue = float | int | str | bool | None | tuple[float | int | str | bool | None, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """One ranked explanation of a finding."""

    kind: str
    confidence: float
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check concludes now. `firing` opens or updates the finding of its kind, otherwise it counts towards resolving it.

    A check returns `None` while it has nothing to add: the finding stays as it is.
    """

    kind: str
    """A name from the vocabulary in `core.vocabulary`."""
    firing: bool
    step: int
    """The step this was concluded at."""
    since_step: int = 0
    """Estimate of the step at which the condition began."""
    since_step_error: float = 0.0
    """One standard error of `since_step`, in steps; 0 when it is exact."""
    severity: Severity | None = None
    """Overrides the vocabulary's severity for this kind."""
    confidence: float = 1.0
    """Probability, calibrated where it can be, that the finding is true."""
    score: float = 0.0
    threshold: float = 0.0
    """The check fires when `score` exceeds `threshold`; both go into the evidence."""
    reason: str = ""
    """One sentence with numbers in it, the same in alerts, CLI, logs and page."""
    evidence: Mapping[str, EvidenceValue] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    needs_cause: bool = False
    """Whether this alone is too little to say: it is a finding only where the diagnosis names a fault."""
