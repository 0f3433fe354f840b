"""The course of one quantity in bounded memory: its latest values as they are, its whole course thinned out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from stallwatch.detector.core.vitals import Level
from stallwatch.detector.signals.course import Course

_RECENT = 16


@dataclass(slots=True)
class Trace:
    """Takes values in the order of steps; those that are not finite are left out."""

    recent: list[float] = field(default_factory=list)
    course: Course = field(default_factory=Course)
    count: int = 0
    peak: float = -math.inf
    lowest: float = math.inf

    def add(self, step: int, value: float) -> None:
        """Take one value."""
        if not math.isfinite(value):
            return
        self.recent = [*self.recent[1 - _RECENT :], value]
        self.course.add(step, value)
        self.count += 1
        self.peak, self.lowest = max(self.peak, value), min(self.lowest, value)

    def level(self, reference_until: float) -> Level:
        """What it is now and what it was before `reference_until`, a step."""
        if not self.count:
            return Level()
        steps, values = self.course.arrays()
        before = values[steps <= reference_until]
        return Level(
            now=float(np.median(self.recent)),
            reference=float(np.median(before)) if before.size else math.nan,
            peak=self.peak,
            lowest=self.lowest,
            count=self.count,
        )

    def mean_and_error(self) -> tuple[float, float]:
        """Mean of the latest values and its standard error; NaN with fewer than four."""
        if len(self.recent) < 4:
            return math.nan, math.nan
        values = np.array(self.recent)
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))
