"""Seeded loss curves for the tests of the loss model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.learning import LossAssessment, LossPoint
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.loss_config import LossConfig

Floats = NDArray[np.float64]
Shape = Callable[[Floats], Floats]


def red_noise(rng: np.random.Generator, points: int, correlation: float) -> Floats:
    """AR(1) noise of unit variance."""
    white = rng.normal(size=points) * math.sqrt(1 - correlation**2)
    white[0] /= math.sqrt(1 - correlation**2)
    out = np.empty(points)
    last = 0.0
    for index, value in enumerate(white):
        last = correlation * last + value
        out[index] = last
    return out


def power_law(exponent: float, floor: float = 0.0) -> Shape:
    """Floor + t ** -exponent."""
    return lambda steps: floor + (steps + 1.0) ** -exponent


def flat_from(shape: Shape, start: float) -> Shape:
    """A shape that stops at a step."""
    return lambda steps: shape(np.minimum(steps, start))


def noisy(shape: Shape, points: int, noise: float, seed: int, correlation: float = 0.0) -> Floats:
    """A shape with noise in proportion to its level."""
    curve = shape(np.arange(points, dtype=float))
    return curve * (1 + noise * red_noise(np.random.default_rng(seed), points, correlation))


def watch(values: Iterable[float], config: LossConfig | None = None, **point: float) -> list[LossAssessment]:
    """All assessments of a curve, one point a step."""
    signal = LossSignal(config=config or LossConfig())
    out: list[LossAssessment] = []
    for step, value in enumerate(values):
        out.extend(signal.update(LossPoint(step, float(value), **point)))
    return out


def states(assessments: Iterable[LossAssessment]) -> list[str]:
    """Their states without repetitions."""
    out: list[str] = []
    for assessment in assessments:
        if not out or out[-1] != assessment.state:
            out.append(assessment.state)
    return out
