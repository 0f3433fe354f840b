"""The course of a series over its whole run, as means over equally many values: as fine at its beginning as at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Course:
    """At most `capacity` points; when they are full, neighbours are joined, and every point stands for twice as many values."""

    capacity: int = 128
    stride: int = 1
    """Values behind a point."""
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    """Values behind each point: `stride`, and fewer in the latest one."""

    def add(self, step: int, value: float) -> None:
        """Take one finite value; those that come out of order find their place."""
        if self.steps and self.weights[-1] < self.stride and step >= self.steps[-1]:
            count = self.weights[-1] + 1
            self.steps[-1] += (step - self.steps[-1]) / count
            self.values[-1] += (value - self.values[-1]) / count
            self.weights[-1] = count
            return
        if len(self.steps) >= self.capacity:
            self._halve()
        self.steps.append(float(step))
        self.values.append(float(value))
        self.weights.append(1)
        if len(self.steps) > 1 and self.steps[-1] < self.steps[-2]:
            order = sorted(range(len(self.steps)), key=lambda index: self.steps[index])
            self.steps = [self.steps[index] for index in order]
            self.values = [self.values[index] for index in order]
            self.weights = [self.weights[index] for index in order]

    def forget_from(self, step: int) -> None:
        """Drop all from this step on: it comes again."""
        kept = sum(each < step for each in self.steps)
        for series in (self.steps, self.values, self.weights):
            del series[kept:]

    def arrays(self) -> tuple[Floats, Floats]:
        """Steps and values."""
        return np.array(self.steps), np.array(self.values)

    def _halve(self) -> None:
        self.stride *= 2
        pairs = len(self.steps) // 2
        weight = np.array(self.weights[: 2 * pairs], float).reshape(pairs, 2)
        total = weight.sum(1)
        steps = (np.array(self.steps[: 2 * pairs]).reshape(pairs, 2) * weight).sum(1) / total
        values = (np.array(self.values[: 2 * pairs]).reshape(pairs, 2) * weight).sum(1) / total
        self.steps = [*steps.tolist(), *self.steps[2 * pairs :]]
        self.values = [*values.tolist(), *self.values[2 * pairs :]]
        self.weights = [*total.astype(int).tolist(), *self.weights[2 * pairs :]]
