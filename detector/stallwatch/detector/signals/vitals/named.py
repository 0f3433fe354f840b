"""Series beside the training loss: evaluation loss and metrics, losses of groups, terms of a composite loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from stallwatch.detector.core.inputs import LossKind
from stallwatch.detector.core.observations import EvaluationObservation, NamedLossObservation
from stallwatch.detector.core.vitals import SeriesVitals
from stallwatch.detector.signals.course import Course

_MOST = 64
"""Series of one kind that are followed."""
_LEAST_POINTS = 8
_FIRST = 8
_ASLEEP = 8
"""Zeros in a row of a term that is not on yet."""


@dataclass(slots=True)
class NamedSeries:
    """One series and the samples behind it."""

    course: Course = field(default_factory=Course)
    count: int = 0
    samples: float = 0.0
    first: list[float] = field(default_factory=list)
    """The first values."""
    zeros: int = 0
    """Zeros in a row."""
    alive_since: int = -1

    def add(self, step: int, value: float, samples: float = 1.0) -> None:
        """Take one finite value."""
        if math.isfinite(value):
            self.course.add(step, value)
            self.count += 1
            self.samples += samples
            if len(self.first) < _FIRST:
                self.first.append(value)
            if value and self.zeros >= _ASLEEP:
                self.alive_since = step
            self.zeros = 0 if value else self.zeros + 1


@dataclass(slots=True)
class NamedTracker:
    """All of them, by kind and name."""

    evaluation: NamedSeries = field(default_factory=NamedSeries)
    metrics: dict[str, NamedSeries] = field(default_factory=dict)
    groups: dict[str, NamedSeries] = field(default_factory=dict)
    components: dict[str, NamedSeries] = field(default_factory=dict)

    def take(self, named: NamedLossObservation) -> None:
        """One step's loss of a group or a component."""
        book = self.groups if named.kind is LossKind.GROUP else self.components
        if named.name in book or len(book) < _MOST:
            book.setdefault(named.name, NamedSeries()).add(named.step, named.loss, named.samples)

    def evaluate(self, seen: EvaluationObservation) -> None:
        """One evaluation."""
        self.evaluation.add(seen.step, seen.loss, seen.samples)
        for name, value in seen.metrics.items():
            if name in self.metrics or len(self.metrics) < _MOST:
                self.metrics.setdefault(name, NamedSeries()).add(seen.step, float(value))

    def evaluation_vitals(self) -> SeriesVitals | None:
        """The evaluation loss; None with too few."""
        return summary("evaluation loss", self.evaluation)

    @staticmethod
    def vitals(book: dict[str, NamedSeries], *, by_level: bool) -> tuple[SeriesVitals, ...]:
        """All series of a kind that have enough points, with their share of the samples or of the sum of the levels."""
        known = [each for name, series in book.items() if (each := summary(name, series)) is not None]
        if by_level:
            weights = [abs(each.level) for each in known]
        else:
            weights = [book[each.name].samples for each in known]
        total = sum(weights)
        return tuple(
            replace(each, share=weight / total if total > 0 else math.nan)
            for each, weight in zip(known, weights, strict=True)
        )


def summary(name: str, series: NamedSeries) -> SeriesVitals | None:
    """A series in numbers; None with fewer than eight points."""
    steps, values = series.course.arrays()
    if values.size < _LEAST_POINTS:
        return None
    eighth = max(values.size // 8, 1)
    half = values.size // 2
    late_steps, late = steps[half:], values[half:]
    span = float(late_steps[-1] - late_steps[0])
    scale = float(np.ptp(values))
    slope = error = 0.0
    if span > 0 and scale > 0 and late.size > 3:
        centred = (late_steps - late_steps.mean()) / span
        fit = float((centred * late).sum() / (centred**2).sum())
        residual = late - late.mean() - fit * centred
        deviation = math.sqrt(float((residual**2).sum()) / (late.size - 2))
        slope, error = fit / scale, deviation / math.sqrt(float((centred**2).sum())) / scale
    return SeriesVitals(
        name=name,
        points=series.count,
        level=float(values[-eighth:].mean()),
        start=float(np.median(series.first[: max(series.count // 8, 1)])),
        slope=slope,
        slope_error=error,
        alive_since=series.alive_since,
    )
