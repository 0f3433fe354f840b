"""Which parts of the model learn: gradients, weights and updates by block."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.sampled import SampledObservation

Floats = NDArray[np.float64]
_STILL_SAMPLES = 3
"""Samples in a row without a change before a block stands still: one may be a step that a scaler skipped."""
_QUARTER = 4
_FEWEST = 4
"""Matrices below which nothing is said about depth."""


@dataclass(slots=True)
class BlockTracker:
    """Follows which blocks move."""

    names: tuple[str, ...] = ()
    still: list[int] = field(default_factory=list)
    """By block, samples in a row on which it did not move while others did; -1 for blocks that are not trained."""
    still_from: list[int] = field(default_factory=list)
    """By block, the first of those samples."""
    moved: list[bool] = field(default_factory=list)
    """By block, whether it has ever been trained: a gradient came, and a step followed."""
    resting: list[int] = field(default_factory=list)
    """By block, samples in a row without a gradient or without an update, while others had both."""
    resting_from: list[int] = field(default_factory=list)
    gradient_to_weight: tuple[float, ...] = ()
    with_gradient: tuple[bool, ...] = ()
    depth_ratio: float = np.nan

    def take(self, sample: SampledObservation) -> None:
        """One sampled step."""
        gradient = over_ranks(sample, sample.gradient_squares)
        weight = over_ranks(sample, sample.parameter_squares)
        update = over_ranks(sample, sample.update_squares)
        if sample.blocks != self.names or len(self.still) != len(sample.blocks):
            self.names = sample.blocks
            count = len(self.names)
            self.still, self.still_from = [0] * count, [-1] * count
            self.moved, self.resting, self.resting_from = [False] * count, [0] * count, [-1] * count
        if weight.size and gradient.size:
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.sqrt(gradient / weight)
            self.gradient_to_weight = tuple(np.where(np.isfinite(ratio), ratio, np.nan).tolist())
            self.with_gradient = tuple((gradient > 0).tolist())
            self.depth_ratio = _depth_ratio(ratio, matrices(sample))
        if update.size and np.nansum(update) > 0 and gradient.size == update.size:
            trained = ((update > 0) & (gradient > 0)).tolist()  # NaN: has no gradient, or asks for none
            for index, at_work in enumerate(trained):
                if at_work:
                    self.moved[index], self.resting[index] = True, 0
                else:
                    self.resting[index] += 1
                    if self.resting[index] == 1:
                        self.resting_from[index] = sample.step
        # A step on which nothing moved at all says nothing about parts.
        if update.size and np.nansum(update) > 0:
            for index, square in enumerate(update.tolist()):
                if square == 0:
                    self.still[index] = max(self.still[index], 0) + 1
                    if self.still[index] == 1:
                        self.still_from[index] = sample.step
                else:
                    self.still[index] = -1 if square != square else 0  # noqa: PLR0124 - NaN: not trained

    def standing(self) -> list[int]:
        """Blocks that stand still."""
        return [index for index, count in enumerate(self.still) if count >= _STILL_SAMPLES]

    def left(self) -> list[int]:
        """Blocks that were trained once and no longer are: frozen, cut off, or left out by the optimizer."""
        return [
            index for index, count in enumerate(self.resting) if count >= _STILL_SAMPLES and self.moved[index]
        ]

    @property
    def trained(self) -> int:
        """Blocks that the optimizer is meant to move."""
        return sum(count >= 0 for count in self.still)


def over_ranks(sample: SampledObservation, squares: Floats) -> Floats:
    """Squared norms by block of the whole model: of one replica, or summed over the parts that ranks hold."""
    if squares.ndim != 2 or not squares.size:
        return np.zeros(0)
    known = np.isfinite(squares).any(axis=1)
    if not known.any():
        return np.zeros(0)
    rows = squares[known]
    if sample.parallelism is Parallelism.SHARDED:
        whole = np.nansum(rows, axis=0)
        whole[np.isnan(rows).all(axis=0)] = np.nan
        return np.asarray(whole)
    return np.asarray(rows[0])


def matrices(sample: SampledObservation) -> NDArray[np.bool_]:
    """By block, whether it holds matrices whose rows are units; all of them where that is not told."""
    rows = sample.gradient_zero_row_shares
    if rows.ndim != 2 or rows.shape[1] != len(sample.blocks):
        return np.ones(len(sample.blocks), np.bool_)
    return np.asarray(np.isfinite(rows).any(axis=0))


def _depth_ratio(ratio: Floats, chosen: NDArray[np.bool_]) -> float:
    """Typical gradient-to-weight ratio of the first quarter of the matrices over that of the last quarter.

    Biases and scales begin at 0 or 1, whatever their gradients: they say nothing of depth.
    """
    known = ratio[np.isfinite(ratio) & (ratio > 0) & chosen]
    if known.size < _FEWEST:
        return float("nan")
    count = max(known.size // _QUARTER, 1)
    first, last = np.median(known[:count]), np.median(known[-count:])
    return float(first / last)
