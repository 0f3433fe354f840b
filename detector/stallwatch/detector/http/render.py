"""Read models as JSON: the fields of the public API, and null where a number is none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.gap_text import gap_text
from stallwatch.detector.core.views import RankView, RunView


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding, as the API, `show` and `analyze` give it."""
    return {
        "id": finding.id,
        "kind": finding.kind,
        "category": finding.category,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "status": finding.status,
        "since_step": finding.since_step,
        "detected_step": finding.detected_step,
        "resolved_step": finding.resolved_step,
        "ranks": finding.ranks,
        "layers": finding.layers,
        "reason": finding.reason,
        "evidence": finding.evidence,
        "advice": finding.advice,
        "causes": [
            {"kind": cause.kind, "confidence": cause.confidence, "reason": cause.reason}
            for cause in finding.causes
        ],
    }


def run_json(view: RunView) -> dict[str, Any]:
    """A run, with its firing findings."""
    forecast = view.loss.forecast
    return {
        "run": view.run,
        "state": view.state,
        "state_since_step": view.state_since_step,
        "step": view.step,
        "epoch": view.epoch,
        "world_size": view.world_size,
        "effective_batch_size": view.effective_batch_size,
        "updated_at": view.updated_at,
        "loss": {
            "value": view.loss.value,
            "slope_per_step": view.loss.slope_per_step,
            "noise": view.loss.noise,
            "forecast": None
            if forecast is None
            else {
                "horizon_steps": forecast.horizon_steps,
                "relative_improvement": forecast.relative_improvement,
                "low": forecast.low,
                "high": forecast.high,
            },
        },
        "gradient_noise_scale": view.gradient_noise_scale,
        "batch_over_critical": view.batch_over_critical,
        "findings": [finding_json(finding) for finding in view.findings],
        "sample_period": view.sample_period,
        "waiting_checks": list(view.waiting_checks),
        **({"group": view.group} if view.group else {}),
        **({"rules": [asdict(rule) for rule in view.rules]} if view.rules else {}),
    }


def gaps_json(view: RunView) -> dict[str, Any]:
    """Where data of a run is missing."""
    gaps = [{**asdict(gap), "text": gap_text(gap)} for gap in view.gaps]
    return {"run": view.run, "gaps": gaps, "unplaced_steps": view.unplaced_steps}


def rank_json(view: RankView) -> dict[str, Any]:
    """A rank."""
    return asdict(view)


def point_json(point: SeriesPoint) -> dict[str, Any]:
    """A point of a series."""
    # Thousands an answer: `asdict` would copy each value.
    return {"step": point.step, "value": point.value, "weight": point.weight}


def dumps(value: Any) -> str:
    """JSON that every reader takes: no NaN, no infinity, no numpy."""
    try:
        return _dumps(value)
    except (TypeError, ValueError):
        # Rare, and three times as slow.
        return _dumps(plain(value))


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """A value of types that JSON has: no NaN, no infinity, no numpy."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    return value
