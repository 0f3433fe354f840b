"""Whether the loss rises for good."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stallwatch.detector.signals.loss_fit import TAIL_SHARES, window
from stallwatch.detector.stats.robust import noise_from_differences
from stallwatch.detector.stats.student import student_quantile
from stallwatch.detector.stats.trend import Trend, variance_inflation

if TYPE_CHECKING:
    from stallwatch.detector.signals.history import BlockHistory
    from stallwatch.detector.stats.hinge import HingePosterior

_SIGNIFICANCE = 0.01
"""Chance, over a whole run, that a slope of pure noise is taken for a rise."""


@dataclass(frozen=True, slots=True)
class Rise:
    """How far the loss stands above its best, and whether it goes on."""

    size: float
    sigma: float
    """`size` in standard errors."""
    diverges: bool
    best: float


def find_rise(
    history: BlockHistory,
    age: int,
    first: float,
    best: float,
    gain: float,
    posterior: HingePosterior,
    trends: dict[float, Trend | None],
) -> Rise:
    """Compare the latest eighth of the age with the best level, and look for slopes that surely rise.

    Args:
        history: Where the blocks are.
        age: Steps since the settings last changed.
        first: Where the loss came from.
        best: The lowest smoothed level at these settings, from blocks of the present size only: early small blocks are
            noisier, and their minimum would make every later level look like a rise.
        gain: The material gain.
        posterior: The fit, for its residual and correlation.
        trends: Lines through the latest shares of the age.
    """
    stop = history.last + 1
    rows = window(history, stop, max(8, math.floor(TAIL_SHARES[0] * age)))
    wide = window(history, stop, max(8, math.floor(TAIL_SHARES[-1] * age)))
    if len(rows) < 6 or len(wide) < 8:
        return Rise(0.0, 0.0, diverges=False, best=best)
    values = rows[:, 1]
    # Noise of these narrower blocks, from the wider ones.
    scale = math.sqrt(float(np.median(wide[:, 2])) / max(float(np.median(rows[:, 2])), 1e-300))
    noise = max(noise_from_differences(wide[:, 1]) * scale, 1e-9 * gain)
    inflation = math.sqrt(variance_inflation(posterior.correlation))
    half = max(2, len(values) // 2)
    size = float(np.mean(values[-half:])) - best
    error = noise * inflation * math.sqrt(1 / half + 1 / 3)
    recovered = float(np.mean(values[:half])) - float(np.mean(values[-half:]))
    jump = (
        size > max(7 * error, 4 * posterior.residual)
        and size > max(2 * gain, 0.05 * abs(first - best))
        and recovered < 2 * noise * inflation * math.sqrt(2 / half)
    )
    latest = trends[TAIL_SHARES[0]]
    falling = latest is not None and latest.interval(0.9)[1] < 0
    # One look every half age and three windows share the significance.
    looks = max(1.0, math.log(max(age, 12) / 12) / math.log(1.5) + 1)
    level = _SIGNIFICANCE / (1.5 * len(TAIL_SHARES) * looks)
    climbing = not falling and any(
        trend is not None
        and trend.slope > student_quantile(1 - level, trend.degrees) * trend.error
        and trend.slope * trend.span > 2 * gain
        and size > max(2 * gain, 4 * error, 2 * posterior.residual)
        for trend in trends.values()
    )
    return Rise(size, size / error, jump or climbing, best)
