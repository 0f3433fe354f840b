"""Location, spread and noise that a few wild points cannot move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


def median_and_sigma(values: Floats) -> tuple[float, float]:
    """Median and robust standard deviation (from the median absolute deviation) of some values."""
    median = float(np.median(values))
    return median, MAD_TO_SIGMA * float(np.median(np.abs(values - median)))


def noise_from_differences(values: Floats) -> float:
    """Standard deviation of single points around a smooth curve, from second differences; 0 with fewer than 5 points.

    Second differences cancel any straight trend and leave sqrt(6) times white noise; positively correlated noise is
    underestimated, which is what is wanted where single points are compared with their neighbours.
    """
    if len(values) < 5:
        return 0.0
    return MAD_TO_SIGMA * float(np.median(np.abs(np.diff(values, 2)))) / float(np.sqrt(6.0))
