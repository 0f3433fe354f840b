"""Comparing ranks with one another, step by step: who is beyond the others, and since when."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
SIGMA = 1.4826
"""Standard deviations in one median absolute deviation of a normal distribution."""


def complete(seconds: Matrix, waits: Matrix | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that most ranks reported, and the ranks that reported all of those."""
    known = np.isfinite(seconds)
    if waits is not None and np.isfinite(waits).any():
        known &= np.isfinite(waits)
    most = known.sum(axis=1) * 2 > max(int(known.sum(axis=1).max(initial=0)), 1)
    rows = np.flatnonzero(most)
    return rows, np.flatnonzero(known[rows].all(axis=0))


def beyond_others(values: Matrix) -> Matrix:
    """Each value less the median of the other ranks' in its row."""
    count = values.shape[1]
    if count > 32:
        # With this many the median of the others is that of all.
        return np.asarray(values - np.median(values, axis=1, keepdims=True))
    order = np.argsort(values, axis=1, kind="stable")
    position = np.empty_like(order)
    np.put_along_axis(position, order, np.broadcast_to(np.arange(count), values.shape), axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    low, high = (count - 2) // 2, (count - 1) // 2
    median = np.zeros_like(values)
    for middle in (low, high):
        # The k-th of the others is the k-th of all, or the next one when this rank comes before it.
        median += 0.5 * np.take_along_axis(ordered, middle + (position <= middle), axis=1)
    return np.asarray(values - median)


def trimmed_mean(values: Matrix) -> NDArray[np.float64]:
    """Mean of the middle three fifths of each column: a stalled step or two do not move it."""
    cut = len(values) // 5
    ordered = np.sort(values, axis=0)
    return np.asarray(ordered[cut : len(values) - cut].mean(axis=0))


def peers(prints: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Which columns belong together: ranks whose optimizers see the same gradients, row by row of their fingerprints.

    In pipeline and tensor parallel jobs only the ranks of one stage and shard wait for one another, and stages take different
    times by their nature. Where that cannot be told (no fingerprints, or a rank whose gradients equal nobody's, which is
    another fault) all belong together.
    """
    count = prints.shape[1]
    everybody = [np.arange(count)]
    if not len(prints) or (prints[0] == prints[0, 0]).all() or (prints[[0, -1]] < 0).any():
        return everybody
    label, sizes = np.unique(prints[0], return_inverse=True, return_counts=True)[1:]
    last = np.unique(prints[-1], return_inverse=True)[1]
    pairs = len({*zip(label.ravel().tolist(), last.ravel().tolist(), strict=True)})
    if sizes.min() < 2 or pairs != sizes.size or int(last.max()) + 1 != sizes.size:
        return everybody
    return [np.flatnonzero(label.ravel() == each) for each in range(sizes.size)]


def onset(series: NDArray[np.float64], steps: list[int]) -> int:
    """The step at which the level of a series went up: the best least-squares step, or the first step when there is none."""
    known = np.flatnonzero(np.isfinite(series))
    values = series[known]
    if values.size < 8:
        return steps[int(known[0])] if known.size else steps[0]
    low, high = np.quantile(values, (0.05, 0.95))
    values = np.clip(values, low, high)
    cut = np.arange(2, values.size - 2)
    total = np.cumsum(values)
    before = total[cut - 1] / cut
    after = (total[-1] - total[cut - 1]) / (values.size - cut)
    gain = np.where(after > before, cut * (values.size - cut) * (after - before) ** 2, 0.0)
    best = int(gain.argmax())
    noise = float(np.median(np.abs(np.diff(values)))) * SIGMA / math.sqrt(2)
    jump = float(after[best] - before[best])
    error = noise * math.sqrt(1 / cut[best] + 1 / (values.size - cut[best]))
    if jump < 0.4 * float(after[best]) or jump < 4 * error:
        return steps[int(known[0])]
    return steps[int(known[cut[best]])]
