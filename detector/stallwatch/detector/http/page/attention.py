"""What needs a look first: runs on the overview, ranks on a run's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.verdicts import Severity
from stallwatch.detector.core.views import STEP_PHASES, RankView, RunView

RANK_TIMES = ("step_seconds", *(f"{phase}_seconds" for phase in STEP_PHASES))
_STATES = ("hung", "lost", "diverging", "plateau", "oscillating", "slow")
_RANK_STATES = ("lost", "silent")


def severity_rank(finding: Finding) -> int:
    """0 for info, 2 for critical."""
    return Severity(finding.severity).rank


def by_need(views: Sequence[RunView]) -> list[RunView]:
    """Runs with critical findings, then with warnings, then those that do not learn, then the rest; the latest first."""

    def need(view: RunView) -> tuple[int, int, float, str]:
        # Information is no reason to come first.
        worst = max((severity_rank(each) for each in view.findings), default=0)
        state = _STATES.index(view.state) if view.state in _STATES else len(_STATES)
        return -worst, state, -view.updated_at, view.run

    return sorted(views, key=need)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Findings by severity, then the latest first."""
    return sorted(findings, key=lambda each: (-severity_rank(each), -each.opened_at, each.id))


def ranks_by_need(ranks: Sequence[RankView]) -> list[RankView]:
    """Ranks that a finding names, then those that are gone, behind, or busiest while the others wait."""

    def need(view: RankView) -> tuple[bool, int, int, float, int]:
        state = _RANK_STATES.index(view.state) if view.state in _RANK_STATES else len(_RANK_STATES)
        waited = view.sync_seconds if view.sync_seconds is not None else float("inf")
        return not view.findings, state, -view.lag_steps, waited, view.rank

    return sorted(ranks, key=need)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One time of a rank beside that of the others."""

    name: str
    value: float
    typical: float
    """Median over all ranks."""
    position: int
    """1 for the longest."""

    @property
    def ratio(self) -> float | None:
        """How many times the typical one it is."""
        return self.value / self.typical if self.typical > 0 else None


def comparisons(rank: RankView, ranks: Sequence[RankView]) -> list[Comparison]:
    """The times of a rank against those of all ranks."""
    found = []
    for name in RANK_TIMES:
        value = getattr(rank, name)
        others = [known for each in ranks if (known := getattr(each, name)) is not None]
        if value is not None and others:
            position = 1 + sum(other > value for other in others)
            found.append(Comparison(name.removesuffix("_seconds"), value, median(others), position))
    return found
