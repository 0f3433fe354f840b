"""Clipping and loss scaling, seen in the factor between the gradient that was produced and the one that was applied."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.vitals import ScalingVitals
from stallwatch.detector.stats.robust import median

_STEPS = 64
_LEAST = 16
_NO_CLIP = 0.999
_POWER_SHARE = 0.3
"""Clipping gives any factor, an unclipped step under a loss scale exactly a power of two: so many of them are no chance."""
_SCALE_FOR_SURE = 2.0**-12
"""Factors that are never above this are those of a loss scale, whatever clipping does on top."""


@dataclass(slots=True)
class ScaleTracker:
    """The latest steps' factors, and how many backward passes they took."""

    factors: list[float] = field(default_factory=list)
    backwards: list[int] = field(default_factory=list)
    loss_scale_peak: float = math.nan

    def take(self, step: StepObservation) -> None:
        """One step."""
        factors = step.gradient_scale[np.isfinite(step.gradient_scale) & (step.gradient_scale > 0)]
        if factors.size:
            self.factors = [*self.factors[1 - _STEPS :], median(factors)]
            scale = self.loss_scale
            if scale > 1:
                self.loss_scale_peak = np.fmax(self.loss_scale_peak, scale)
        micro = step.micro_batches[step.micro_batches >= 0]
        if micro.size:
            self.backwards = [*self.backwards[1 - _STEPS :], int(median(micro))]

    @property
    def loss_scale(self) -> float:
        """The power of two that gradients are divided by, judged by the least reduced of the latest steps; 1 without one."""
        if not self.factors:
            return math.nan
        exponents = np.log2(np.array(self.factors[-_LEAST:]))
        powers = exponents[(np.abs(exponents - np.round(exponents)) < 1e-4) & (exponents < -0.5)]
        if powers.size >= _POWER_SHARE * exponents.size:
            return float(2.0 ** -np.round(powers.max()))
        largest = float(2.0 ** exponents.max())
        return 1.0 if largest > _SCALE_FOR_SURE else 2.0 ** math.floor(math.log2(1 / largest) + 1e-6)

    def vitals(self) -> ScalingVitals:
        """Shares over the latest steps."""
        if len(self.factors) < _LEAST and len(self.backwards) < _LEAST:
            return ScalingVitals()
        scale = self.loss_scale
        clipped_share = factor = math.nan
        if len(self.factors) >= _LEAST:
            # The loss scale may have changed within the window: the clip factor is what is left of a power of two.
            relative = np.array(self.factors) * scale
            relative = relative / 2.0 ** np.round(np.log2(np.maximum(relative, 1.0)))
            clipped = relative < _NO_CLIP
            clipped_share = float(clipped.mean())
            factor = float(np.median(relative[clipped])) if clipped.any() else math.nan
        skipped = math.nan
        if len(self.backwards) >= _LEAST:
            counts = np.array(self.backwards)
            usual = int(np.median(counts)) or 1
            # A backward that no step followed is counted with the next one that is.
            extra = float(np.maximum(counts - usual, 0).sum()) / usual
            skipped = extra / (extra + counts.size)
        return ScalingVitals(
            steps=len(self.factors),
            clipped_share=clipped_share,
            clip_factor=factor,
            loss_scale=scale,
            loss_scale_peak=self.loss_scale_peak,
            skipped_share=skipped,
        )
