"""A verdict that needs a cause becomes a finding when the same fault has been named for several looks in a row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stallwatch.detector.core.verdicts import Verdict

_LOOKS = 4
"""Looks are spaced by 5 % of the run's age, and one alone may name by chance what the next one does not."""


@dataclass(slots=True)
class Suspicion:
    """What was named under verdicts that need a cause."""

    kind: str = ""
    """The fault that came first at the latest look; empty when none did."""
    looks: int = 0
    """Looks in a row that named it."""

    def confirm(self, verdict: Verdict) -> Verdict:
        """The verdict of a look, after `explain`; it does not fire before its cause is confirmed."""
        if not verdict.needs_cause:
            return verdict
        named = verdict.causes[0].kind if verdict.firing and verdict.causes else ""
        self.looks = self.looks + 1 if named and named == self.kind else int(bool(named))
        self.kind = named
        return verdict if self.looks >= _LOOKS else replace(verdict, firing=False)
