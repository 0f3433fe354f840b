"""Location, spread and noise that a few wild points cannot move."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


def median(values: Floats | NDArray[np.int64]) -> float:
    """The median of a flat array; numpy's own takes ten times as long for some dozens of values."""
    ordered = np.sort(values)
    half = len(ordered) // 2
    if len(ordered) == 0 or ordered[-1] != ordered[-1]:
        return math.nan
    if len(ordered) % 2:
        return float(ordered[half])
    # Of integers, the sum may be none that fits.
    return (float(ordered[half - 1]) + float(ordered[half])) / 2


def median_and_sigma(values: Floats) -> tuple[float, float]:
    """Median and robust standard deviation (from the median absolute deviation) of some values."""
    middle = median(values)
    return middle, MAD_TO_SIGMA * median(np.abs(values - middle))


def noise_from_differences(values: Floats) -> float:
    """Standard deviation of single points around a smooth curve, from second differences; 0 with fewer than 5 points.

    Second differences cancel any straight trend and leave sqrt(6) times white noise; positively correlated noise is
    underestimated, which is what is wanted where single points are compared with their neighbours.
    """
    if len(values) < 5:
        return 0.0
    return MAD_TO_SIGMA * median(np.abs(values[2:] - 2 * values[1:-1] + values[:-2])) / float(np.sqrt(6.0))
