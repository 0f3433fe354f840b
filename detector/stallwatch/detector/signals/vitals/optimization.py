"""Gradients, weights and updates over the run, from sampled steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.sampled import DirectionObservation, SampledObservation
from stallwatch.detector.core.vitals import OptimizationVitals
from stallwatch.detector.signals.trace import Trace
from stallwatch.detector.signals.vitals.blocks import BlockTracker, over_ranks


@dataclass(slots=True)
class OptimizationTracker:
    """One trace a quantity."""

    gradient_norm: Trace = field(default_factory=Trace)
    weight_norm: Trace = field(default_factory=Trace)
    update_ratio: Trace = field(default_factory=Trace)
    effective_step: Trace = field(default_factory=Trace)
    decay_share: Trace = field(default_factory=Trace)
    alignment: Trace = field(default_factory=Trace)
    agreement: Trace = field(default_factory=Trace)
    zero_share: Trace = field(default_factory=Trace)
    zero_row_share: Trace = field(default_factory=Trace)
    depth_ratio: Trace = field(default_factory=Trace)
    blocks: BlockTracker = field(default_factory=BlockTracker)
    worst_zero_rows: tuple[str, float] = ("", math.nan)
    saturated: tuple[str, float] = ("", math.nan)
    saturated_share: float = math.nan
    live_zero_rows: Trace = field(default_factory=Trace)
    silent_share: Trace = field(default_factory=Trace)
    gradient_element: float = math.nan
    unchanged_share: float = math.nan

    def take(self, sample: SampledObservation, rate: float, trainable: int, loss_scale: float = 1.0) -> None:
        """One sampled step.

        Args:
            sample: What was read.
            rate: The learning rate at it.
            trainable: Elements that are trained; 0 when unknown.
            loss_scale: What the loss was multiplied by before the backward; NaN when unknown.
        """
        step = sample.step
        reduced, produced = _one(sample.reduced_gradient_square), _one(sample.produced_gradient_square)
        # As the backward left it: in units of the loss scale, which may change by orders without meaning anything.
        scale = loss_scale if math.isfinite(produced) and loss_scale >= 1 else 1.0
        norm = math.sqrt(produced if math.isfinite(produced) else reduced)
        self.gradient_norm.add(step, norm / scale)
        if trainable > 0 and math.isfinite(norm):
            self.gradient_element = norm / math.sqrt(trainable)
        # Sharded ranks hold parts: their squares add up, and so do the blocks'.
        blocks_weight, blocks_update = (
            over_ranks(sample, sample.parameter_squares),
            over_ranks(sample, sample.update_squares),
        )
        weight = float(np.nansum(blocks_weight)) if blocks_weight.size else _one(sample.parameter_square)
        update = float(np.nansum(blocks_update)) if blocks_update.size else _one(sample.update_square)
        self.weight_norm.add(step, math.sqrt(weight))
        if weight > 0:
            self.update_ratio.add(step, math.sqrt(update / weight))
        if rate > 0 and trainable > 0:
            self.effective_step.add(step, math.sqrt(update / trainable) / rate)
        self._decay(sample, rate, math.sqrt(weight), math.sqrt(update), math.sqrt(reduced))
        self.blocks.take(sample)
        self.depth_ratio.add(step, self.blocks.depth_ratio)
        self._zeros(sample)
        if sample.saturated_shares:
            self.saturated = max(sample.saturated_shares.items(), key=lambda item: item[1])
            self.saturated_share = float(np.median(list(sample.saturated_shares.values())))
        if sample.unchanged_share.size:
            self.unchanged_share = _one(sample.unchanged_share)

    def _decay(
        self, sample: SampledObservation, rate: float, weight: float, update: float, gradient: float
    ) -> None:
        """The pull of weight decay beside the step it is part of, or the gradient it is added to."""
        if not sample.weight_decay >= 0:
            return
        pull = sample.weight_decay * weight
        whole = update / rate if sample.decoupled_weight_decay and rate > 0 else gradient
        if whole > 0:
            self.decay_share.add(sample.step, pull / whole)

    def _zeros(self, sample: SampledObservation) -> None:
        shares, rows = _row(sample.gradient_zero_shares), _row(sample.gradient_zero_row_shares)
        if np.isfinite(shares).any():
            self.zero_share.add(sample.step, float(np.nanmedian(shares)))
        if np.isfinite(rows).any():
            self.zero_row_share.add(sample.step, float(np.nanmean(rows)))
            worst = int(np.nanargmax(rows))
            self.worst_zero_rows = (sample.blocks[worst], float(rows[worst]))
            self._units(sample, rows)

    def _units(self, sample: SampledObservation, rows: NDArray[np.float64]) -> None:
        """Units without a gradient, apart from matrices that get none at all: those may be cut off as a whole."""
        gradient = over_ranks(sample, sample.gradient_squares)
        if gradient.size != rows.size:
            return
        # A matrix that the backward did not reach has no rows told: it counts from when it was one.
        known = np.isfinite(rows)
        reached = known & (gradient > 0)
        self.silent_share.add(sample.step, 1.0 - float(reached.sum() / known.sum()))
        if np.count_nonzero(known) > 1:
            reached[np.flatnonzero(known)[-1]] = False  # outputs are no units
        if reached.any():
            self.live_zero_rows.add(sample.step, float(rows[reached].mean()))

    def turn(self, direction: DirectionObservation) -> None:
        """Where the gradient after a sampled step points."""
        self.alignment.add(direction.step, direction.update_alignment)
        self.agreement.add(direction.step, direction.gradient_agreement)

    def vitals(self, until: float) -> OptimizationVitals:
        """All levels, with the reference before step `until`."""
        still, left = self.blocks.standing(), self.blocks.left()
        names = self.blocks.names
        mean, error = self.alignment.mean_and_error()
        with_gradient = self.blocks.with_gradient
        return OptimizationVitals(
            gradient_norm=self.gradient_norm.level(until),
            gradient_tail=_tail(self.gradient_norm.recent),
            weight_norm=self.weight_norm.level(until),
            update_ratio=self.update_ratio.level(until),
            effective_step=self.effective_step.level(until),
            decay_share=self.decay_share.level(until),
            alignment=self.alignment.level(until),
            alignment_mean=mean,
            alignment_error=error,
            agreement=self.agreement.level(until),
            zero_share=self.zero_share.level(until),
            zero_row_share=self.zero_row_share.level(until),
            worst_zero_rows=self.worst_zero_rows,
            saturated=self.saturated,
            saturated_share=self.saturated_share,
            live_zero_rows=self.live_zero_rows.level(until),
            silent_share=self.silent_share.level(until),
            gradient_element=self.gradient_element,
            unchanged_share=self.unchanged_share,
            depth_ratio=self.depth_ratio.level(until),
            blocks=names,
            gradient_to_weight=self.blocks.gradient_to_weight,
            still_blocks=tuple(names[index] for index in still),
            still_share=len(still) / self.blocks.trained if self.blocks.trained else math.nan,
            still_with_gradient=tuple(
                names[index] for index in still if index < len(with_gradient) and with_gradient[index]
            ),
            left_blocks=tuple(names[index] for index in left),
            left_share=len(left) / sum(self.blocks.moved) if any(self.blocks.moved) else math.nan,
            left_since=min((self.blocks.resting_from[index] for index in left), default=-1),
            still_since=min((self.blocks.still_from[index] for index in still), default=-1),
        )


def _tail(values: list[float]) -> float:
    """The third largest over the median; NaN with fewer than 16."""
    if len(values) < 16:
        return math.nan
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return ordered[-3] / middle if middle > 0 else math.nan


def _one(values: NDArray[np.float64]) -> float:
    """The median over ranks of what they know; NaN when none does."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _row(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The row of the first rank that tells; on sharded models, the parts are alike enough."""
    if matrix.ndim != 2:
        return np.zeros(0)
    known = np.flatnonzero(np.isfinite(matrix).any(axis=1))
    return np.asarray(matrix[known[0]]) if known.size else np.zeros(0)
