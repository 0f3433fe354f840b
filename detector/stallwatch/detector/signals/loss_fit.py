"""Which blocks of the history are fitted, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.stats.hinge import HingePosterior, fit_hinges
from stallwatch.detector.stats.trend import Trend, fit_trend

if TYPE_CHECKING:
    from stallwatch.detector.signals.history import BlockHistory

Floats = NDArray[np.float64]

TRANSIENT = 0.1
"""Share of the age left out at the start, where the curve is steepest and says least about the future."""
TAIL_SHARES = (0.125, 0.25, 0.5)
"""Latest shares of the age that get a straight line."""
_BLOCKS = 64
_WINDOW_BLOCKS = 40
_LATE = 0.5
_FEWEST_LATE = 16
_MISFIT = 1.25
"""Residuals this much larger than the noise between neighbours show a curve with more bends than the model has."""
_BENT = 0.3
"""... and so does a correlation of neighbouring residuals above this."""


def grid(history: BlockHistory, origin: int, start: int, stop: int) -> Floats:
    """Block means of [start, stop), the recent half of the age finer; rows (mean step, mean value, weight)."""
    age = stop - origin
    coarse = history.level_for(age, _BLOCKS)
    fine = history.level_for(max(age // 2, 1), _BLOCKS)
    if fine >= coarse:
        return history.blocks(coarse, start, stop)
    half = (stop - age // 2) >> coarse << coarse
    older = history.blocks(coarse, start, half) if start < half else np.zeros((0, 3))
    return np.concatenate((older, history.blocks(fine, max(half, start), stop)))


def window(history: BlockHistory, stop: int, steps: int) -> Floats:
    """Block means of the last `steps` steps, 20 to 40 of them where the points suffice."""
    level = history.level_for(steps, _WINDOW_BLOCKS)
    return history.blocks(level, stop - steps, stop)


def window_trend(history: BlockHistory, stop: int, steps: float) -> Trend | None:
    """Line through the last `steps` steps, at least eight of them."""
    rows = window(history, stop, max(8, int(steps)))
    return fit_trend(rows[:, 0], rows[:, 1], rows[:, 2]) if len(rows) else None


def fit_recent(
    relative: Floats, values: Floats, weights: Floats, noise: float, gain: float, ahead: float, prior: float
) -> HingePosterior:
    """Fit the whole curve, or its later half where one hinge does not explain it all."""
    posterior = fit_hinges(relative, values, weights, gain, ahead, prior)
    late = relative >= _LATE
    bent = posterior.residual > _MISFIT * noise or posterior.correlation > _BENT
    if bent and np.count_nonzero(late) >= _FEWEST_LATE:
        return fit_hinges(relative[late], values[late], weights[late], gain, ahead, prior)
    return posterior


def tail_share(posterior: HingePosterior) -> float:
    """Which latest share of the age to look at for what the curve does after its break."""
    if posterior.probability_unbroken() > 0.5:
        return TAIL_SHARES[-1]
    return min(0.8, max(0.12, 0.85 * (1 - posterior.break_time()[0])))
