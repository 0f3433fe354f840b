"""The verdict as JSON: the shape that scripts rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.report.outcome import Outcome


def to_json(outcomes: Sequence[Outcome]) -> str:
    """One object for one run, an array for several."""
    documents = [document(outcome) for outcome in outcomes]
    return json.dumps(documents[0] if len(documents) == 1 else documents, indent=2, allow_nan=False)


def to_json_lines(outcomes: Sequence[Outcome]) -> str:
    """One object a line, for one run as for many."""
    return "\n".join(json.dumps(document(outcome), allow_nan=False) for outcome in outcomes)


def document(outcome: Outcome) -> dict[str, object]:
    """One run: `file`, `axis`, `states`, `findings`, `summary`."""
    return {
        "file": outcome.log.file,
        "run": outcome.log.name,
        "axis": outcome.log.axis,
        "states": [
            {
                "state": entry.state,
                "from_step": position(entry.from_step),
                "since_step": position(entry.since_step),
                "reason": entry.reason,
            }
            for entry in outcome.states
        ],
        "findings": [finding_document(finding) for finding in outcome.findings],
        "summary": _summary(outcome),
        **({"rules": [asdict(rule) for rule in outcome.rules]} if outcome.rules else {}),
    }


def finding_document(finding: Finding) -> dict[str, object]:
    """The fields of the public API."""
    return {
        "id": finding.id,
        "kind": finding.kind,
        "category": finding.category,
        "severity": finding.severity,
        "confidence": _plain(finding.confidence),
        "status": finding.status,
        "since_step": _plain(finding.since_step),
        "detected_step": _plain(finding.detected_step),
        "resolved_step": _plain(finding.resolved_step),
        "ranks": list(finding.ranks),
        "layers": list(finding.layers),
        "reason": finding.reason,
        "evidence": _plain(finding.evidence),
        "advice": list(finding.advice),
        "causes": [
            {"kind": cause.kind, "confidence": _plain(cause.confidence), "reason": cause.reason}
            for cause in finding.causes
        ],
    }


def position(step: float) -> int | float:
    """A place on the axis: whole where it is whole."""
    return int(step) if float(step).is_integer() else round(step, 6)


def _summary(outcome: Outcome) -> dict[str, object]:
    log, final, points = outcome.log, outcome.final, outcome.log.points
    forecast = final.forecast if final is not None and outcome.horizon_end is not None else None
    summary = {
        "state": outcome.state,
        "state_since_step": position(outcome.states[-1].since_step),
        "reason": outcome.summary_reason,
        "judged": log.judged,
        "column": log.judged_column,
        "points": int(points.loss.size),
        "evaluations": int(log.evaluations.step.size),
        "first_step": position(outcome.first_step),
        "last_step": position(outcome.last_step),
        "loss": {
            "value": final.level if final is not None else None,
            "slope_per_step": final.slope_per_step if final is not None else None,
            "noise": final.noise if final is not None else None,
            "forecast": {
                "horizon_steps": forecast.horizon_steps,
                "relative_improvement": forecast.relative_improvement,
                "low": forecast.low,
                "high": forecast.high,
            }
            if forecast is not None
            else None,
        },
        "flat_share": round(outcome.flat_share, 6),
        "hours": outcome.hours,
        "flat_hours": outcome.flat_hours,
        "notes": list(log.notes),
    }
    plain = _plain(summary)
    assert isinstance(plain, dict)
    return plain


def _plain(value: object) -> object:
    """JSON has no NaN and no infinity: they become null; numpy's numbers become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
