"""Gradient noise scale from local and reduced gradient norms: at which batch does noise stop mattering.

With the squared norm of the local gradient averaged over ranks, `m`, and that of the averaged gradient, `M`, the noise and
the signal are unbiasedly estimated as (McCandlish et al., arXiv 1812.06162, App. A.1, for unequal batches):

    tr S = (m - M) / (c1 - c2)        |G|^2 = (c1 M - c2 m) / (c1 - c2)        c1 = mean(1 / b_i)    c2 = sum(1 / b_i) / N^2

Their ratio is taken of running means, never as a running mean of ratios, which is biased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stallwatch.detector.core.sampled import SampledObservation

_MEMORY = 50
_MINIMUM = 8


@dataclass(slots=True)
class NoiseScale:
    """Running estimate of `tr S / |G|^2`, in samples."""

    count: int = 0
    weight_square: float = 1.0
    """Sum of squared weights of the running mean: one over the effective number of observations."""
    noise: float = 0.0
    signal: float = 0.0
    noise_square: float = 0.0
    signal_square: float = 0.0
    product: float = 0.0

    def update(self, observation: SampledObservation) -> None:
        """Take one sampled step, when every number it needs is there."""
        world = observation.world_size
        known = (
            np.isfinite(observation.local_gradient_square)
            & np.isfinite(observation.reduced_gradient_square)
            & (observation.samples > 0)
        )
        if world < 2 or np.count_nonzero(known) < max(2, world // 2):
            return
        local = float(observation.local_gradient_square[known].mean())
        reduced = float(observation.reduced_gradient_square[known].mean())
        inverse = float((1.0 / observation.samples[known]).mean())
        c1, c2 = inverse, inverse / world
        noise = (local - reduced) / (c1 - c2)
        signal = (c1 * reduced - c2 * local) / (c1 - c2)
        self.count += 1
        alpha = 1.0 / min(self.count, _MEMORY)
        keep = 1.0 - alpha
        self.weight_square = keep * keep * self.weight_square + alpha * alpha if self.count > 1 else 1.0
        self.noise = keep * self.noise + alpha * noise
        self.signal = keep * self.signal + alpha * signal
        self.noise_square = keep * self.noise_square + alpha * noise * noise
        self.signal_square = keep * self.signal_square + alpha * signal * signal
        self.product = keep * self.product + alpha * noise * signal

    def estimate(self) -> float | None:
        """The noise scale in samples; None while its relative error is 0.5 or more."""
        if self.count < _MINIMUM or self.noise <= 0 or self.signal <= 0:
            return None
        noise_var = max(self.noise_square - self.noise**2, 0.0)
        signal_var = max(self.signal_square - self.signal**2, 0.0)
        covariance = self.product - self.noise * self.signal
        relative = (
            noise_var / self.noise**2
            + signal_var / self.signal**2
            - 2 * covariance / (self.noise * self.signal)
        )
        error = math.sqrt(max(relative, 0.0) * self.weight_square)
        return self.noise / self.signal if error < 0.5 else None
