"""What templates are given: read models, chosen and ordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.gap_text import gap_text, overlapping
from stallwatch.detector.core.views import RUN_STATES, EventView, RankView, RunView, StateSpan
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.http.page import attention, charts
from stallwatch.detector.http.page.evidence import evidence

RUNS_SHOWN = 200
RANKS_SHOWN = 12
EVENTS_SHOWN = 50
RESOLVED_SHOWN = 50
NEEDS_ATTENTION = "attention"


def overview(views: Sequence[RunView], text: str, state: str) -> dict[str, Any]:
    """The runs whose name holds `text` and that are in `state`."""
    text, state = text.strip()[:128], state if state in (*RUN_STATES, NEEDS_ATTENTION) else ""

    def fits(view: RunView) -> bool:
        if text.lower() not in view.run.lower() and text.lower() not in view.group.lower():
            return False
        if state == NEEDS_ATTENTION:
            return any(attention.severity_rank(each) > 0 for each in view.findings)
        return not state or view.state == state

    chosen = attention.by_need([view for view in views if fits(view)])
    worst = [max((attention.severity_rank(each) for each in view.findings), default=0) for view in views]
    return {
        "runs": [(view, attention.worst_first(view.findings)) for view in chosen[:RUNS_SHOWN]],
        "left_out": max(len(chosen) - RUNS_SHOWN, 0),
        "total": len(views),
        "critical": worst.count(2),
        "warning": worst.count(1),
        "text": text,
        "state": state,
        "states": RUN_STATES,
    }


@dataclass(frozen=True, slots=True)
class RunParts:
    """What a run's page is made of."""

    view: RunView
    findings: Sequence[Finding]
    ranks: Sequence[RankView]
    events: Sequence[EventView]
    states: Sequence[StateSpan]
    series_names: Sequence[str]
    loss: Sequence[SeriesPoint]


def run(parts: RunParts) -> dict[str, Any]:
    """One run."""
    resolved = [each for each in parts.findings if each.status == "resolved"]
    ranks = parts.ranks
    return {
        "view": parts.view,
        "firing": attention.worst_first(parts.view.findings),
        "resolved": sorted(resolved, key=lambda each: -(each.resolved_at or 0.0))[:RESOLVED_SHOWN],
        "resolved_total": len(resolved),
        "ranks": attention.ranks_by_need(ranks)[:RANKS_SHOWN]
        if len(ranks) > RANKS_SHOWN
        else sorted(ranks, key=lambda each: each.rank),
        "ranks_total": len(ranks),
        "nodes": len({each.node for each in ranks}),
        "events": list(reversed(parts.events))[:EVENTS_SHOWN],
        "events_total": len(parts.events),
        "states": list(reversed(parts.states))[:EVENTS_SHOWN],
        "charts": charts.charts(parts.series_names),
        "loss_table": parts.loss,
        "gaps": [gap_text(gap) for gap in reversed(parts.view.gaps)],
    }


def finding(view: RunView, found: Finding, series_names: Sequence[str]) -> dict[str, Any]:
    """One finding."""
    first, last = charts.window(found, view)
    return {
        "view": view,
        "finding": found,
        "evidence": evidence(found.evidence, [each.kind for each in found.causes if _is_weighed(each.kind)]),
        "says": VOCABULARY[found.kind].says if found.kind in VOCABULARY else "",
        "charts": charts.charts_of(found, series_names),
        "from_step": first,
        "to_step": last,
        "stalled_seconds": view.stalled_gpu_seconds.get(found.kind),
        "gaps": gaps_of(view, found),
    }


def gaps_of(view: RunView, found: Finding) -> list[str]:
    """Where data is missing that the finding might have rested on: from before its onset, which it looked back to, to its end."""
    last = view.step if found.resolved_step is None else found.resolved_step
    return [gap_text(gap) for gap in overlapping(view.gaps, charts.window(found, view)[0], last)]


def rank(view: RunView, chosen: RankView, ranks: Sequence[RankView]) -> dict[str, Any]:
    """One rank."""
    numbers = sorted(each.rank for each in ranks)
    place = numbers.index(chosen.rank)
    return {
        "view": view,
        "rank": chosen,
        "ranks_total": len(ranks),
        "before": numbers[place - 1] if place else None,
        "after": numbers[place + 1] if place + 1 < len(numbers) else None,
        "comparisons": attention.comparisons(chosen, ranks),
        "findings": [each for each in attention.worst_first(view.findings) if chosen.rank in each.ranks],
    }


def rank_columns() -> tuple[str, ...]:
    """The rows of the heat map, as the API names them."""
    known = {column.name for column in fields(RankView)}
    wanted = ("lag_steps", *attention.RANK_TIMES, "loss", "steps_missing")
    return tuple(name for name in wanted if name in known)


def _is_weighed(kind: str) -> bool:
    """Whether a cause was weighed by its evidence; faults of other checks that come before it were not."""
    return kind in VOCABULARY and VOCABULARY[kind].category == "causes"
