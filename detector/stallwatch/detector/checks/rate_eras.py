"""The learning rate and the batch of one attempt of a job, and how fast the loss fell a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from stallwatch.detector.core.observations import StepObservation

_Value = TypeVar("_Value")
_RAISED = 1e-3
"""A relative increase below this is rounding."""
_CHANGES = 256
"""Changes of the learning rate that are remembered: a checkpoint may be so many steps of a schedule old."""
_BATCHES = 32
_LOSSES = 200
_WARM_STEPS = 5
"""Losses after a restart that do not count: optimizers without their state take a few steps to get going."""


@dataclass(slots=True)
class Era:
    """One attempt, from its first step on."""

    attempt: int
    first_step: int
    steps: int = 0
    batches: list[float] = field(default_factory=list)
    """Samples of all ranks in the latest steps."""
    rate: float = math.nan
    first_rate: float = math.nan
    peak: float = 0.0
    raised_step: int = -1
    """Step of the latest increase; the first step, until there is one."""
    has_fallen: bool = False
    """Whether the rate has gone down since its peak: a warm-up is over."""
    changes: list[tuple[int, float]] = field(default_factory=list)
    """(step, rate) of its latest changes."""
    first_losses: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """The first and the latest ones."""

    def take(self, step: StepObservation) -> None:
        """One more step."""
        self.steps += 1
        samples = float(step.samples.sum())
        if samples > 0:
            _keep(self.batches, samples * step.world_size / len(step.ranks), _BATCHES)
            loss = step.mean_loss()
            if math.isfinite(loss):
                if len(self.first_losses) < _LOSSES:
                    self.first_losses.append(loss)
                _keep(self.losses, loss, _LOSSES)
        rate = step.learning_rates[0] if step.learning_rates else math.nan
        if not math.isfinite(rate) or rate < 0:
            return
        if math.isnan(self.rate):
            self.first_rate = rate
        if math.isnan(self.rate) or rate > self.rate * (1 + _RAISED):
            self.raised_step = step.step
        if rate > self.peak:
            self.peak, self.has_fallen = rate, False
        elif rate < self.peak * (1 - _RAISED):
            self.has_fallen = True
        if rate != self.rate:
            _keep(self.changes, (step.step, rate), _CHANGES)
        self.rate = rate

    @property
    def batch(self) -> float:
        """Samples of a step; NaN while none were logged."""
        return float(np.median(self.batches)) if self.batches else math.nan

    def rate_before(self, step: int) -> float:
        """The learning rate at the last step before `step`."""
        known = [rate for at, rate in self.changes if at < step]
        return known[-1] if known else self.changes[0][1] if self.changes else math.nan

    def is_rising(self, step: int, steps: int) -> bool:
        """Whether the rate was raised in so many steps before `step`, its first value left aside."""
        raised = self.raised_step > self.first_step
        return raised and not self.has_fallen and step - self.raised_step < steps


@dataclass(frozen=True, slots=True)
class Progress:
    """How fast the loss falls a sample after a change, as a share of before."""

    ratio: float
    error: float
    """One standard error of the ratio."""


def progress_between(before: Era, after: Era) -> Progress | None:
    """Ratio of the slopes of the loss over samples; None where it did not surely fall before, or too little is known."""
    count = min(len(before.losses), len(after.first_losses) - _WARM_STEPS)
    if count < 20:
        return None
    old, old_error = _slope(before.losses[-count:], before.batch)
    new, new_error = _slope(after.first_losses[_WARM_STEPS : _WARM_STEPS + count], after.batch)
    if not old < -4 * old_error:
        return None
    ratio = new / old
    return Progress(ratio, math.hypot(new_error, ratio * old_error) / abs(old))


def _keep(values: list[_Value], value: _Value, count: int) -> None:
    """Add a value to the latest so many."""
    values.append(value)
    if len(values) > count:
        del values[0]


def _slope(losses: list[float], batch: float) -> tuple[float, float]:
    """Slope a sample and its standard error, by least squares."""
    values = np.array(losses)
    x = (np.arange(values.size) - (values.size - 1) / 2) * batch
    square = float(x @ x)
    slope = float(x @ values) / square
    residual = values - values.mean() - slope * x
    return slope, math.sqrt(float(residual @ residual) / max(values.size - 2, 1) / square)
