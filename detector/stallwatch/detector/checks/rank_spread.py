"""How far a rank stands out from its peers: from the noise over steps, and from what peers are like among themselves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import SIGMA, Matrix

MANY = 8
"""Below this many ranks their spread says little: a rank is then compared with the range of the others."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median, in those of the mean."""
_BLOCKS = 5


def error_of_typical(excess: Matrix) -> NDArray[np.float64]:
    """Standard error of each rank's typical excess over the steps of a window, neighbouring steps being alike or not."""
    count = len(excess)
    around = excess - np.median(excess, axis=0)
    spread = SIGMA * np.median(np.abs(around), axis=0)
    blocks = np.stack([part.mean(axis=0) for part in np.array_split(excess, _BLOCKS)])
    # Shards that are read in order have neighbours that are alike: as many steps then say as much as fewer.
    square = np.sum(around**2, axis=0)
    alike = np.sum(around[1:] * around[:-1], axis=0) / np.where(square > 0, square, 1.0)
    alike = np.clip(alike + (1 + 3 * alike) / count, 0.0, 0.98)
    lasting = np.sqrt(square / count * (1 + alike) / (1 - alike) / count)
    return np.asarray(
        np.maximum(
            np.maximum(MEDIAN_ERROR * spread / math.sqrt(count), lasting),
            blocks.std(axis=0, ddof=1) / math.sqrt(_BLOCKS),
        )
    )


def standing_out(
    values: NDArray[np.float64], error: NDArray[np.float64], least: float, range_factor: float
) -> NDArray[np.float64]:
    """How many standard deviations ranks stand out by; with fewer than `MANY`, 0 where others are as far from each other.

    Args:
        values: By how much each rank is off from the others.
        error: Standard errors of `values`.
        least: The spread over ranks is taken to be at least this.
        range_factor: With fewer than `MANY` ranks, how many times the range of the others a rank must be off by.
    """
    over_steps = np.abs(values) / error
    if values.size >= MANY:
        spread = SIGMA * float(np.median(np.abs(values - np.median(values))))
        return np.asarray(np.minimum(np.abs(values) / max(spread, least), over_steps))
    if values.size == 2:
        # Each is the other's only peer: half of what parts them may be either's.
        return np.asarray(over_steps / 2)
    apart = np.zeros(values.size, np.bool_)
    for index in range(values.size):
        others = np.delete(values, index)
        distance = abs(float(values[index]) - float(np.median(others)))
        # What the noise of two of them explains is no difference between them.
        differ = max(float(np.ptp(others)) - 2 * float(np.delete(error, index).max()), 0.0)
        apart[index] = distance > range_factor * differ
    return np.where(apart, over_steps, 0.0)


def beyond_usual(history: Matrix, distance: NDArray[np.float64], factor: float) -> NDArray[np.bool_]:
    """Whether ranks are off by more than the others are from one another, in this window and those before.

    Where each rank reads its shard in order, what it reads for a while differs from what the others read meanwhile.

    Args:
        history: Levels of the ranks (columns) in the latest windows.
        distance: How far each rank is off in the latest.
        factor: How many standard deviations of the others it must be.
    """
    known = history[np.isfinite(history).all(axis=1)]
    beyond = np.ones(distance.size, np.bool_)
    if distance.size < 3:
        return beyond
    for index in range(distance.size):
        others = np.delete(known, index, axis=1)
        beyond[index] = distance[index] > factor * math.sqrt(float(others.var(axis=1, ddof=1).mean()))
    return beyond
