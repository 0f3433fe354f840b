"""Curves reduced to what a picture can show."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stallwatch.detector.importers.log import Floats

# More points than this blacken a line of a thousand pixels.
_LINE_POINTS = 1500
_BINS = 400
_TREND_POINTS = 300


@dataclass(frozen=True, slots=True)
class Envelope:
    """A line where `low` is `high`, else the band that holds most values."""

    step: Floats
    low: Floats
    high: Floats

    @property
    def is_band(self) -> bool:
        """Whether it is drawn as an area."""
        return self.low is not self.high


def envelope(step: Floats, value: Floats) -> Envelope:
    """The values themselves when they are few, else their 5 % and 95 % quantiles along the axis."""
    if step.size <= _LINE_POINTS:
        return Envelope(step, value, value)
    step, value = _sorted(step, value)
    edges = np.linspace(0, step.size, _BINS + 1).astype(int)
    pieces = [slice(start, stop) for start, stop in pairwise(edges)]
    quantiles = np.array([np.quantile(value[piece], (0.05, 0.95)) for piece in pieces])
    return Envelope(np.array([step[piece].mean() for piece in pieces]), quantiles[:, 0], quantiles[:, 1])


def trend(step: Floats, value: Floats) -> tuple[Floats, Floats]:
    """A smooth line: local straight lines over a tenth of the neighbours, half as wide at the steep beginning."""
    step, value = _sorted(step, value)
    size = step.size
    if size > 20 * _TREND_POINTS:
        # Means of neighbours first: the line costs points times points.
        cut = size // (size // (20 * _TREND_POINTS))
        edges = np.linspace(0, size, min(cut, 20 * _TREND_POINTS) + 1).astype(int)[:-1]
        counts = np.diff(np.append(edges, size))
        step, value = np.add.reduceat(step, edges) / counts, np.add.reduceat(value, edges) / counts
        size = step.size
    places = np.unique(np.round(np.linspace(0, np.sqrt(size - 1), _TREND_POINTS) ** 2).astype(int))
    levels = np.empty(places.size)
    for index, place in enumerate(places.tolist()):
        # The window shrinks towards the beginning, where a loss falls fastest.
        half = max(3, min(int(0.05 * size), int(0.35 * place) + 3))
        near = slice(max(0, place - half), min(size, place + half + 1))
        levels[index] = _local_line(step[near], value[near], step[place])
    return step[places], levels


def _local_line(step: Floats, value: Floats, at: float) -> float:
    distance = step - at
    reach = np.abs(distance).max() or 1.0
    # A median within the window keeps one spike from bending the line.
    middle = np.median(value)
    spread = 1.4826 * np.median(np.abs(value - middle))
    weight = (1 - np.clip(np.abs(distance) / (1.01 * reach), 0, 1) ** 3) ** 3
    if spread > 0:
        weight = weight * (np.abs(value - middle) < 6 * spread)
    total = weight.sum()
    if total <= 0:
        return float(middle)
    mean_step, mean_value = (weight * distance).sum() / total, (weight * value).sum() / total
    variance = (weight * (distance - mean_step) ** 2).sum()
    slope = (weight * (distance - mean_step) * (value - mean_value)).sum() / variance if variance > 0 else 0.0
    return float(mean_value - slope * mean_step)


def span_of_values(values: Floats, others: Floats) -> tuple[float, float, bool]:
    """Limits of the picture that keep the curve legible, and whether they want a logarithmic axis."""
    shown = np.concatenate([values, others[np.isfinite(others)]])
    if not shown.size:
        return 0.0, 1.0, False
    low, high = (float(limit) for limit in np.quantile(shown, (0.001, 0.995)))
    if low > 0 and high / low > 30:
        return low / 1.3, high * 1.3, True
    # The steep beginning may leave the picture: what matters happens at a hundredth of its height.
    settled = float(np.quantile(shown, 0.95))
    if high - settled > settled - low:
        high = settled + 0.7 * (settled - low)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin, False


def _sorted(step: Floats, value: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(step, kind="stable")
    return step[order], value[order]
