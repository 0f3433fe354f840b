"""How large a number of somebody else's may be: so that its square, and the square of that, are still numbers.

Half of what Python does with floats raises `OverflowError` where numpy says infinity, and a difference of two infinities is no number:
beyond these bounds every statistic is one of two traps. Nobody's training gets there; a float32 ends at 3.4e38.
"""

from __future__ import annotations

import math

import numpy as np

from stallwatch.detector.core.observations import Floats

LARGEST = 1e60
"""Of a loss, a metric, a norm, a learning rate."""
LARGEST_SQUARE = LARGEST * LARGEST
"""Of a sum of squares."""
LARGEST_COUNT = 2.0**63
"""Of samples."""


def within(values: Floats, largest: float | Floats = LARGEST) -> Floats:
    """The values, none larger than `largest` or smaller than its negative; what is not finite stays as it is."""
    return np.where(np.isfinite(values), np.clip(values, -largest, largest), values)


def number_within(value: float, largest: float = LARGEST) -> float:
    """`within` for one value."""
    return min(max(value, -largest), largest) if math.isfinite(value) else value


def sums_within(sums: Floats, counts: Floats) -> Floats:
    """Sums whose means over so many are within `LARGEST`; where nothing was counted, the sums themselves are."""
    return within(sums, LARGEST * np.where(counts > 0, counts, 1.0))
