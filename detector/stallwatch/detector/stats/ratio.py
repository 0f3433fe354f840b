"""The ratio of two means, and how well it is known."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.stats.student import student_quantile

_GROUPS = 16
"""Groups of consecutive values: enough for a covariance, and long enough, in a long series, to hold its correlation."""
_FEWEST = 4
_QUANTILE = 0.9875
"""Of both sides, 97.5 %: group means are skew where noise dominates, and what is estimated drifts meanwhile."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """An estimate of `mean(x) / mean(y)` for y above 0 in truth."""

    value: float
    relative_error: float
    """One standard error by the delta method, as a share of the value; infinite where the value is not above 0."""
    low: float
    high: float
    """Ends of Fieller's 97.5 % interval, cut at 0; infinite where a denominator of 0 is not ruled out."""


def ratio_of_means(x: NDArray[np.float64], y: NDArray[np.float64]) -> Ratio | None:
    """Estimate `mean(x) / mean(y)` from paired values in the order of time.

    Values may be correlated with each other and along time: the covariance of the two means is taken over groups of
    consecutive pairs. Unlike the delta method, Fieller's interval holds where the denominator is hardly known, and opens
    where it is not known to be above 0. None where the pairs contradict a denominator above 0, or are too few.
    """
    if len(x) < _FEWEST:
        return None
    (x, unit_of_x), (y, unit_of_y) = _near_one(x), _near_one(y)
    ratio = _ratio(x, y)
    if ratio is None:
        return None
    unit = min(max(unit_of_x / unit_of_y, sys.float_info.min), sys.float_info.max)
    return replace(ratio, value=ratio.value * unit, low=ratio.low * unit, high=ratio.high * unit)


def _near_one(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The values in a unit in which the largest is 1 to 2, and that unit, a power of two: squares of any others may be no numbers."""
    largest = float(np.max(np.abs(values)))
    if not 0 < largest < math.inf:
        return values, 1.0
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    return values / unit, unit


def _ratio(x: NDArray[np.float64], y: NDArray[np.float64]) -> Ratio | None:
    count = min(len(x), _GROUPS)
    edges = np.linspace(0, len(x), count + 1).astype(np.int64)
    sizes = np.diff(edges)
    groups = np.stack([np.add.reduceat(each, edges[:-1]) / sizes for each in (x, y)])
    share = sizes / sizes.sum()
    top, bottom = (float(mean) for mean in groups @ share)
    away = groups - np.array([[top], [bottom]])
    covariance = (away * share**2) @ away.T * count / (count - 1)
    v_top, v_both, v_bottom = float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])
    t = student_quantile(_QUANTILE, count - 1)
    if bottom < -t * math.sqrt(v_bottom):
        return None
    # The interval is where a q^2 - 2 b q + c <= 0: where top - q bottom is within t standard errors of 0.
    a = bottom**2 - t**2 * v_bottom
    b = top * bottom - t**2 * v_both
    c = top**2 - t**2 * v_top
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0:
        low, high = max((b - root) / a, 0.0), max((b + root) / a, 0.0)
    else:
        # Open above: what is excluded, if anything, lies between 0 and the root above it.
        low, high = (c / (b + root) if c > 0 and b + root > 0 else 0.0), math.inf
    if top <= 0 or bottom <= 0:
        value = max(top / bottom, 0.0) if bottom > 0 else math.inf
        return Ratio(value, math.inf, low, high)
    relative = v_top / top / top + v_bottom / bottom / bottom - 2 * v_both / top / bottom
    return Ratio(top / bottom, math.sqrt(max(relative, 0.0)), low, high)
