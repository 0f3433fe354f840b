"""A straight line through a noisy, autocorrelated series, with an honest error of its slope."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.stats.student import student_cdf, student_quantile

Floats = NDArray[np.float64]

MAX_CORRELATION = 0.85
"""Lag-1 correlations above this cannot be told from a trend within some 50 points."""


def lag_one_correlation(residuals: Floats, fitted: int) -> float:
    """Lag-1 autocorrelation of the residuals of a fit with `fitted` parameters, corrected for its downward bias.

    Fitting p parameters to m points biases the estimate by about -(1 + p) / m (Kendall 1954, Marriott & Pope 1954); with
    few points the correction errs to the high side, which widens intervals.
    """
    points = len(residuals)
    power = float(residuals @ residuals)
    if points < 4 or power <= 0:
        return 0.0
    raw = float(residuals[1:] @ residuals[:-1]) / power
    corrected = (raw * points + fitted) / max(points - 2 * fitted, 1)
    return min(max(corrected, 0.0), MAX_CORRELATION)


def variance_inflation(correlation: float) -> float:
    """How much larger the variance of a mean of an AR(1) series is than for white noise."""
    return (1 + correlation) / (1 - correlation)


@dataclass(frozen=True, slots=True)
class Trend:
    """A fitted line and how far to trust it."""

    slope: float
    """Change of the value per step."""
    error: float
    """Standard error of the slope, AR(1)-inflated."""
    degrees: float
    """Effective degrees of freedom of the error."""
    residual: float
    """Standard deviation of single points around the line."""
    correlation: float
    span: float
    """Steps between the first and the last point."""
    points: int

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided confidence interval of the slope at this level, for instance 0.95."""
        half = student_quantile(0.5 + level / 2, self.degrees) * self.error
        return self.slope - half, self.slope + half

    def probability_below(self, slope: float) -> float:
        """Probability that the true slope is below `slope`."""
        if self.error <= 0:
            return float(self.slope < slope)
        return student_cdf((slope - self.slope) / self.error, self.degrees)


def fit_trend(
    steps: Floats, values: Floats, weights: Floats | None = None, *, curved: bool = False
) -> Trend | None:
    """Weighted least-squares line with AR(1)-aware error; None with fewer than 5 points or no spread in steps.

    With `curved` the noise is what a parabola leaves: a smooth curve that bends is no noisy line. Its slope is the line's.
    """
    points = len(values)
    if points < 5:
        return None
    weight = np.full(points, 1.0 / points) if weights is None else weights / weights.sum()
    centre = float(weight @ steps)
    offset = steps - centre
    spread = float(weight @ (offset * offset))
    if spread <= 0:
        return None
    level = float(weight @ values)
    slope = float(weight @ (offset * values)) / spread
    residuals = (values - level - slope * offset) * np.sqrt(weight * points)
    fitted = 2
    if curved and points > 5:
        residuals, fitted = _without_bend(residuals, offset, weight, spread), 3
    power = float(residuals @ residuals)
    correlation = lag_one_correlation(residuals, fitted)
    inflation = variance_inflation(correlation)
    degrees = max(points / inflation - fitted, 1.5)
    # The numerical floor keeps a constant series from claiming an infinitely sure slope.
    variance = max(power / max(points - fitted * inflation, 1.0), (1e-12 * abs(level)) ** 2)
    error = math.sqrt(variance * inflation / (spread * points))
    residual = math.sqrt(power / max(points - fitted, 1))
    return Trend(slope, error, degrees, residual, correlation, float(steps[-1] - steps[0]), points)


def _without_bend(residuals: Floats, offset: Floats, weight: Floats, spread: float) -> Floats:
    """What a parabola leaves of the (weighted) residuals of a line."""
    square = offset * offset - spread
    bend = (square - float(weight @ (square * offset)) / spread * offset) * np.sqrt(weight)
    power = float(bend @ bend)
    return residuals - float(bend @ residuals) / power * bend if power > 0 else residuals
