"""A finding: a verdict with a life. The fields are those of the public API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stallwatch.detector.core.verdicts import Cause, EvidenceValue


@dataclass(frozen=True, slots=True)
class Finding:
    """What users see, in the API, alerts, CLI and page."""

    id: str
    """Unique within the service: run, kind and ordinal, stable over restarts of the detector."""
    run: str
    kind: str
    category: str
    severity: str
    confidence: float
    status: str
    """`firing` or `resolved`."""
    since_step: int
    detected_step: int
    resolved_step: int | None
    ranks: tuple[int, ...]
    layers: tuple[str, ...]
    reason: str
    evidence: Mapping[str, EvidenceValue] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    opened_at: float = 0.0
    """Unix seconds, by the analysis's own time, at which it was called."""
    resolved_at: float | None = None
