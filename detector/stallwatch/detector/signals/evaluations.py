"""The evaluation series of a run: the loss, and every metric that is logged beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.observations import EvaluationObservation
from stallwatch.detector.stats.trend import Trend, fit_trend

Floats = NDArray[np.float64]


@dataclass(slots=True)
class EvaluationSeries:
    """At most `capacity` points of one series; when full, neighbours are averaged, so the whole run stays covered."""

    capacity: int = 128
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Take one finite evaluation; a repeated step counts again."""
        self.steps.append(float(step))
        self.values.append(value)
        self.weights.append(1.0)
        if len(self.steps) > 1 and self.steps[-1] < self.steps[-2]:
            order = sorted(range(len(self.steps)), key=lambda index: self.steps[index])
            self.steps = [self.steps[index] for index in order]
            self.values = [self.values[index] for index in order]
            self.weights = [self.weights[index] for index in order]
        if len(self.steps) >= self.capacity:
            self._halve()

    def _halve(self) -> None:
        pairs = len(self.steps) // 2
        weight = np.array(self.weights[: 2 * pairs]).reshape(pairs, 2)
        total = weight.sum(1)
        steps = (np.array(self.steps[: 2 * pairs]).reshape(pairs, 2) * weight).sum(1) / total
        values = (np.array(self.values[: 2 * pairs]).reshape(pairs, 2) * weight).sum(1) / total
        rest = slice(2 * pairs, None)
        self.steps = [*steps.tolist(), *self.steps[rest]]
        self.values = [*values.tolist(), *self.values[rest]]
        self.weights = [*total.tolist(), *self.weights[rest]]

    def __len__(self) -> int:
        return len(self.steps)

    def trend_since(self, step: float, *, curved: bool = False) -> Trend | None:
        """Line through the points at and after a step; None with fewer than 5. A `curved` course is no noise."""
        steps, values, weights = self.arrays()
        kept = steps >= step
        return fit_trend(steps[kept], values[kept], weights[kept], curved=curved)

    def smoothed(self) -> Floats:
        """Means of three neighbours, shape (points - 2,)."""
        return (
            np.convolve(self.values, np.ones(3) / 3, "valid")
            if len(self.values) >= 3
            else np.array(self.values)
        )

    def arrays(self) -> tuple[Floats, Floats, Floats]:
        """Steps, values and weights."""
        return np.array(self.steps), np.array(self.values), np.array(self.weights)


@dataclass(slots=True)
class Evaluations:
    """Evaluation loss and metrics by name."""

    loss: EvaluationSeries = field(default_factory=EvaluationSeries)
    metrics: dict[str, EvaluationSeries] = field(default_factory=dict)

    def take(self, observation: EvaluationObservation) -> bool:
        """Add one evaluation; return whether its loss was finite."""
        for name, value in observation.metrics.items():
            if np.isfinite(value):
                self.metrics.setdefault(name, EvaluationSeries()).add(observation.step, float(value))
        if not np.isfinite(observation.loss):
            return False
        self.loss.add(observation.step, observation.loss)
        return True
