"""Whether gradients scale with the number of accumulated micro-batches, as they do where the loss is not divided by it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_KEPT = 16
_COMPARED = 6
_NEAR = 3
_TOLERANCE = 0.15
"""Of the logarithm of the squared norms' ratio."""


@dataclass(frozen=True, slots=True)
class NormSample:
    """The gradient of one sampled step."""

    step: int
    micro_batches: int
    micro_samples: float
    """Samples of one micro-batch."""
    measure: str
    """Whose norm: `local`, or `averaged` over how many ranks. Only the same are compared."""
    norm: float
    """Logarithm of the squared norm, before clipping."""
    applied: float
    """The same of the gradient that the optimizer saw; NaN when unknown."""


@dataclass(slots=True)
class Segment:
    """Sampled steps in a row with one count of micro-batches."""

    micro_batches: int = 0
    measure: str = ""
    micro_samples: float = 0.0
    steps: list[int] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    applied: list[float] = field(default_factory=list)

    def add(self, sample: NormSample) -> None:
        """Take a sample of this segment."""
        self.steps = [*self.steps[1 - _KEPT :], sample.step]
        self.norms = [*self.norms[1 - _KEPT :], sample.norm]
        self.applied = [*self.applied[1 - _KEPT :], sample.applied]


@dataclass(slots=True)
class AccumulationScale:
    """Compares gradient norms before and after a change, of the count of micro-batches or of the norms by that count.

    Of K2 instead of K1 equal micro-batches, the squared norm of a mean lies between K1/K2 and 1 times what it was, that of a
    sum between K2/K1 and its square, that of a mean divided twice below (K1/K2)^2, whatever the noise: |G|^2 + tr S / B
    (McCandlish et al., arXiv 1812.06162). Where the count is declared and stays, a norm that jumps by just that count, between
    two samples and for good, tells the same. What the optimizer sees must have jumped as well: a loss scale may do what it
    likes.
    """

    previous: Segment = field(default_factory=Segment)
    current: Segment = field(default_factory=Segment)
    relative: float = 0.0
    """Change of the squared norm's logarithm over that of the count, when something was found; else 0."""
    factor: float = 1.0
    """... and of the norm itself."""
    count_before: int = 0
    since: int = 0
    since_error: int = 0

    @property
    def undivided(self) -> bool:
        """Whether what was found is a sum, rather than a mean divided twice."""
        return self.relative > 0

    def update(self, sample: NormSample, declared: int, needed: int, count_ratio: float) -> bool:
        """Take one sample; whether something is found, now or since the last change."""
        current, previous = self.current, self.previous
        key = (sample.micro_batches, sample.measure)
        if key != (current.micro_batches, current.measure):
            if key == (previous.micro_batches, previous.measure) and len(current.norms) < needed:
                # A few other steps in between, as at the end of an epoch.
                self.current, self.previous = previous, Segment()
            else:
                self.previous = current
                self.current = Segment(sample.micro_batches, sample.measure, sample.micro_samples)
            self.relative = 0.0
        self.current.add(sample)
        if needed <= len(self.current.norms) <= 2 * needed and not self.relative:
            self._compare_counts(needed, count_ratio)
        if declared > 1:
            self._compare_norms(needed)
        return bool(self.relative)

    def _compare_counts(self, needed: int, count_ratio: float) -> None:
        """The first samples with a new count, and the last ones with the count before."""
        old, new = self.previous, self.current
        if (
            not old.micro_batches
            or old.measure != new.measure
            or len(old.norms) < needed
            or abs(new.micro_samples - old.micro_samples) > 0.25 * old.micro_samples
        ):
            return
        change = math.log(new.micro_batches / old.micro_batches)
        if abs(change) < math.log(count_ratio):
            return
        before, after = np.array(old.norms[-_COMPARED:]), np.array(new.norms)
        grown, error = _grown(before, after)
        relative = grown / change
        summed = relative > 0.6 and abs(grown) > error
        twice = relative < -1.6 and abs(grown) - abs(change) > error
        if (summed or twice) and _follows(grown, old.applied[-_COMPARED:], new.applied):
            self._find(relative, grown, old.micro_batches, new.steps[0], new.steps[0] - old.steps[-1] - 1)

    def _compare_norms(self, needed: int) -> None:
        """The latest samples, and those before them, with the same count."""
        segment, count = self.current, self.current.micro_batches
        if count < 2:
            return
        change = 2 * math.log(count)
        for later in range(needed, _COMPARED + 1):
            cut = len(segment.norms) - later
            if cut < needed:
                return
            jump, error = _jump(segment.norms, cut)
            sign = math.copysign(1.0, jump)
            grown = float(
                np.median(segment.norms[cut:]) - np.median(segment.norms[max(cut - _COMPARED, 0) : cut])
            )
            if (
                not _fits(abs(jump) / change, _step(segment.norms, cut) * sign / change)
                or 4 * error > abs(jump)
                # All of it between two samples, and more of it than what drifts back.
                or (segment.norms[cut] - segment.norms[cut - 1]) * sign < 0.6 * abs(jump)
                or grown * sign < 0.4 * abs(jump)
                or _jump(segment.applied, cut)[0] * sign < 0.5 * abs(jump)
            ):
                continue
            if self.relative and self.undivided != (jump > 0):
                # Back to where it was.
                self.relative = 0.0
            elif not self.relative:
                between = segment.steps[cut] - segment.steps[cut - 1] - 1
                self._find(2 * sign, jump, count, segment.steps[cut], between)
            return

    def _find(self, relative: float, grown: float, count_before: int, since: int, between: int) -> None:
        self.relative, self.factor, self.count_before = relative, math.exp(grown / 2), count_before
        self.since, self.since_error = since - between // 2, (between + 1) // 2


def _grown(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float]:
    """How far norms went, and how far they go by themselves: their drift, and three standard errors of both medians."""
    error = _drift(before) + _drift(after) + 3 * math.hypot(_error(before), _error(after))
    return float(np.median(after) - np.median(before)), error


def _jump(values: list[float], cut: int) -> tuple[float, float]:
    """How far values jump between two straight lines, just before `cut`, and the standard error of that."""
    ends, squares, freedom, error = [], 0.0, 0, 0.0
    for part, at in ((values[max(cut - _COMPARED, 0) : cut], 0.5), (values[cut:][:_COMPARED], -0.5)):
        count = len(part)
        x = np.arange(count) - (count - 1) / 2
        y = np.array(part)
        slope = float(np.dot(x, y) / np.dot(x, x))
        end = float(x[-1] if at > 0 else x[0]) + at
        ends.append(float(y.mean()) + slope * end)
        squares += float(np.sum((y - y.mean() - slope * x) ** 2))
        freedom += count - 2
        error += 1 / count + end**2 / float(np.dot(x, x))
    return ends[1] - ends[0], math.sqrt(squares / freedom * error)


def _step(values: list[float], cut: int) -> float:
    """How far the next few values are from the last few."""
    return float(np.mean(values[cut:][:_NEAR]) - np.mean(values[max(cut - _NEAR, 0) : cut]))


def _fits(by_lines: float, by_levels: float) -> bool:
    """Whether a jump, in units of the one expected, is that one.

    Norms that fall on a bend lead lines beyond the jump and levels short of it: it lies between the two.
    """
    low, high = sorted((by_lines, by_levels))
    return low <= 1 + _TOLERANCE and high >= 1 - _TOLERANCE and high - low <= 2 * _TOLERANCE


def _follows(grown: float, before: list[float], after: list[float]) -> bool:
    """Whether what the optimizer saw went the same way; where it is not known, nothing speaks against it."""
    applied = float(np.median(after) - np.median(before))
    return math.isnan(applied) or applied * math.copysign(1.0, grown) > 0.5 * abs(grown)


def _error(values: NDArray[np.float64]) -> float:
    """Standard error of a median, from the differences of neighbours, which a trend hardly moves."""
    return 1.2533 * float(np.std(np.diff(values))) / math.sqrt(2 * values.size)


def _drift(values: NDArray[np.float64]) -> float:
    """How far values move within their span by themselves, beyond what their noise explains."""
    half = values.size // 2
    moved = abs(float(np.median(values[half:]) - np.median(values[:half])))
    return max(moved - 2 * math.sqrt(2) * _error(values), 0.0)
