"""The sentence that a finding's series carries. In Prometheus a new value of a label is a new series, so it changes rarely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stallwatch.detector.core.findings import Finding

FIRST_HOLD_SECONDS = 300.0
"""A sentence stays at least so long; each later one twice as long as the one before."""


@dataclass(slots=True)
class _Shown:
    reason: str
    severity: str
    until: float
    hold: float


class SteadySentences:
    """Keeps each firing finding's sentence for 5, 10, 20, ... minutes.

    A finding that fires for a time T has at most log2(T / 5 min) + 2 sentences: ten in a day, however often its numbers move.
    Another severity is another alert, so it brings the sentence of the moment with it.
    """

    def __init__(self) -> None:
        self._shown: dict[str, _Shown] = {}

    def of(self, findings: Iterable[Finding], now: float) -> Mapping[str, str]:
        """The sentences to show now, by finding; those of findings that are not given are forgotten."""
        current: dict[str, _Shown] = {}
        for finding in findings:
            known = self._shown.get(finding.id)
            if known is None:
                known = _Shown(finding.reason, finding.severity, now + FIRST_HOLD_SECONDS, FIRST_HOLD_SECONDS)
            elif finding.severity != known.severity:
                known.reason, known.severity = finding.reason, finding.severity
            elif finding.reason != known.reason and now >= known.until:
                known.reason = finding.reason
                known.hold *= 2
                known.until = now + known.hold
            current[finding.id] = known
        self._shown = current
        return {identity: shown.reason for identity, shown in current.items()}
