"""Gradient noise scale from local and averaged gradient norms: at which batch does noise stop mattering."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.scaling import NoiseScaleObservation
from stallwatch.detector.stats.ratio import Ratio, ratio_of_means

_PUBLISHED_ERROR = 0.5
"""An estimate whose relative error is larger is no number to act on; its bounds are."""
_AGREEING = 1e-4
"""Averaged gradients have the same norm on all ranks, up to rounding; otherwise they were not averaged."""
_CARRIED = 1e-6
"""Share of the gradient that may have been there before the first backward: more is an old gradient."""
_SPIKE = 4.0
"""A gradient this many times larger than usual counts no more than one of that size."""
_FORGETS = 0.2
"""Weight of the latest step in the running size of the gradient."""


@dataclass(frozen=True, slots=True)
class NoiseScaleConfig:
    """Settings of the noise scale."""

    minimum_steps: int = 8
    """Sampled steps before anything is said: fewer say nothing about their own spread."""
    maximum_steps: int = 256
    """Sampled steps that are kept at most: the memory of the estimate."""

    def __post_init__(self) -> None:
        """Refuse windows too short for a spread."""
        if not 4 <= self.minimum_steps <= self.maximum_steps:
            raise ValueError("noise_scale.minimum_steps must be at least 4 and at most maximum_steps")


@dataclass(slots=True)
class NoiseScaleSignal:
    """Estimates `tr S / |G|^2` in samples, with an interval that covers it, from norms that a rank reads anyway.

    With the squared norm `m` of the ranks' own gradients, averaged over ranks, and that of the averaged gradient, `M`:

        tr S = (m - M) / (c1 - c2)    |G|^2 = (c1 M - c2 m) / (c1 - c2)    c1 = mean(1 / b_i)    c2 = sum(1 / b_i) / N^2

    both without bias, since DDP averages ranks with equal weights whatever their batches `b_i` (all samples since the last
    synchronisation, so accumulation is in them). The scale is the ratio of their means over the latest half of the sampled
    steps, never a mean of ratios; each step counts by the size that gradients had before it, so that the large gradients
    of the beginning do not outweigh all later ones. The interval is Fieller's, from the covariance over groups of
    consecutive steps.

    It sees nothing with one rank, and leaves out steps whose norms contradict what it assumes: gradients that were not
    averaged, were not cleared before, or are bit for bit the same on two ranks, which then share their samples. Without
    `produced_gradient_square` it takes the norm that the optimizer saw, after clipping: a clipped gradient looks noisier.
    After McCandlish et al., arXiv 1812.06162, appendix A.1; Fieller, J. R. Stat. Soc. B 16 (1954).
    """

    consumes: ClassVar[tuple[type, ...]] = (SampledObservation,)

    config: NoiseScaleConfig = field(default_factory=NoiseScaleConfig)
    count: int = 0
    """Sampled steps that could be used."""
    size: float = math.nan
    """Running mean of `m`."""
    noise: list[float] = field(default_factory=list)
    """`tr S` of the latest steps, in units of `size`."""
    signal: list[float] = field(default_factory=list)
    """`|G|^2` of the latest steps, in the same unit."""
    agreement: list[float] = field(default_factory=list)

    def update(self, observation: object) -> Iterable[object]:
        """Take one sampled step, when every number it needs is there."""
        if not isinstance(observation, SampledObservation):
            return ()
        world, local = observation.world_size, observation.local_gradient_square
        averaged, samples = _averaged(observation), observation.samples
        known = np.isfinite(local) & (local > 0) & np.isfinite(averaged) & (samples > 0)
        if observation.parallelism is not Parallelism.DATA_PARALLEL or known.sum() < max(2, world // 2):
            return ()
        local, averaged, samples = local[known], averaged[known], samples[known]
        if not _is_usable(local, averaged) or _is_carried(observation):
            return ()
        inverse = float((1.0 / samples).mean())
        self._take(float(local.mean()), float(averaged.mean()), inverse, inverse / world)
        if self.count < self.config.minimum_steps:
            return ()
        ratio = ratio_of_means(np.array(self._latest(self.noise)), np.array(self._latest(self.signal)))
        if ratio is None:
            return ()
        return (self._observe(observation, ratio, float(samples.mean()) * world, world / inverse),)

    def _take(self, local: float, averaged: float, c1: float, c2: float) -> None:
        size = self.size if self.count else local
        unit = max(size, local / _SPIKE)
        self.size = size + _FORGETS * (min(local, _SPIKE * size) - size)
        self.count += 1
        for kept, value in (
            (self.noise, (local - averaged) / (c1 - c2) / unit),
            (self.signal, (c1 * averaged - c2 * local) / (c1 - c2) / unit),
            (self.agreement, averaged / local),
        ):
            kept.append(value)
            if len(kept) > self.config.maximum_steps:
                del kept[0]

    def _latest(self, values: list[float]) -> list[float]:
        """Half of the run, since the scale grows while a model learns; the last 16 steps at least."""
        return values[-max(16, self.count // 2) :]

    def _observe(
        self, sampled: SampledObservation, ratio: Ratio, effective_batch: float, noise_batch: float
    ) -> NoiseScaleObservation:
        agreement = float(np.mean(self._latest(self.agreement)))
        scale = ratio.value if ratio.value > 0 and ratio.relative_error < _PUBLISHED_ERROR else None
        over = noise_batch / scale if scale is not None else None
        return NoiseScaleObservation(
            step=sampled.step,
            attempt=sampled.attempt,
            world_size=sampled.world_size,
            scale=scale,
            low=ratio.low,
            high=ratio.high,
            relative_error=ratio.relative_error,
            sampled_steps=len(self._latest(self.noise)),
            effective_batch=effective_batch,
            noise_batch=noise_batch,
            batch_over_critical=over,
            efficiency=1 / (1 + over) if over is not None else None,
            agreement=agreement,
            effective_ranks=min(max(1 / agreement, 1.0), float(sampled.world_size)) if agreement > 0 else 1.0,
        )


def _averaged(observation: SampledObservation) -> NDArray[np.float64]:
    """The averaged gradient's squared norm, as the backward left it where that is known."""
    seen = observation.reduced_gradient_square
    produced = observation.produced_gradient_square
    return np.where(np.isfinite(produced), produced, seen) if produced.size == seen.size else seen


def _is_usable(local: NDArray[np.float64], averaged: NDArray[np.float64]) -> bool:
    """Whether gradients were averaged, and come from samples of their own."""
    same = float(averaged.max() - averaged.min()) <= _AGREEING * float(averaged.max())
    return same and np.unique(local).size == local.size


def _is_carried(observation: SampledObservation) -> bool:
    """Whether an old gradient was still there when the step began."""
    carried = observation.carried_gradient_square
    local = observation.local_gradient_square
    return carried.size == local.size and bool((carried > _CARRIED * local).any())
