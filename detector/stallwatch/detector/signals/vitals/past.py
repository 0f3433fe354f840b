"""What happened to the run: events, restarts, jumps of the learning rate and of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from stallwatch.detector.core.observations import AttemptObservation, EventObservation
from stallwatch.detector.core.vitals import LevelShift, RateVitals, Restart
from stallwatch.detector.signals.course import Course
from stallwatch.detector.signals.learning_rate import LearningRateTracker

_EVENTS = 32
_RESTARTS = 16
_SHIFTS = 8
_WINDOW = 32
"""Losses on either side of a jump or a restart."""
_NEAR = 6
"""Losses on either side that say where a jump is."""
_LOW = 0.1
_FIRST = 8
_SIGMAS = 3.0
"""A jump between medians of 32 losses by so many deviations of single ones is none of the noise: nine standard errors."""

_RAISED = 1.3
_STOOD = 16
"""Steps that a rate has stood before a rise of it is no warm-up."""


@dataclass(slots=True)
class RateTracker:
    """The learning rate and its latest jump."""

    tracker: LearningRateTracker = field(default_factory=LearningRateTracker)
    before: float = math.nan
    jumped_at: int = -1
    falling: int = 0
    """Of the latest changes, how many more went down than up."""
    low_since: int = -1
    raised_at: int = -1
    raised_from: float = math.nan
    changed_at: int = -1
    """Step of the latest change of any size."""

    def take(self, step: int, rate: float) -> None:
        """The rate at one step."""
        old = self.tracker.current
        if rate != old:
            # A warm-up rises at every step, in large ones at first; this is a rate that stood still.
            if rate >= _RAISED * old > 0 and step - self.changed_at >= _STOOD:
                self.raised_at, self.raised_from = step, old
            self.changed_at = step
        if self.tracker.update(step, rate):
            self.before, self.jumped_at = old, step
        elif rate < old:
            self.falling = min(self.falling + 1, 8)
        elif rate > old:
            self.falling = max(self.falling - 1, -8)
        if rate > _LOW * self.tracker.peak:
            self.low_since = -1
        elif self.low_since < 0:
            self.low_since = step

    def vitals(self) -> RateVitals:
        """Where it stands."""
        return RateVitals(
            now=self.tracker.current,
            peak=self.tracker.peak or math.nan,
            since=self.jumped_at,
            before=self.before,
            falling=self.falling >= 4,
            low_since=self.low_since,
            raised_at=self.raised_at,
            raised_from=self.raised_from,
        )


@dataclass(slots=True)
class PastTracker:
    """Bounded lists of what happened."""

    events: list[EventObservation] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    shifts: list[LevelShift] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    """The latest steps and losses of this attempt."""
    before: list[float] = field(default_factory=list)
    """The last losses of the attempt before."""
    state_step: int = -1
    """Steps of the optimizer's state at the latest sample, and how many steps before it that sample was."""
    state_step_before: int = -1
    sampled_at: int = -1
    open_restart: AttemptObservation | None = None
    """A restart whose first losses are still coming in."""
    course: Course = field(default_factory=Course)
    """The losses of the whole run, thinned out; those of steps that a restart repeats are replaced."""
    first_losses: list[float] = field(default_factory=list)
    last_step: int = -1
    step_before: int = -1
    """The last step of the attempt before."""
    loss_there: float = math.nan
    """What the loss was at the steps that the latest restart went back to."""

    def note(self, event: EventObservation) -> None:
        """An event."""
        self.events = [*self.events[1 - _EVENTS :], event]

    def loss(self, step: int, loss: float) -> None:
        """One step's loss."""
        if not math.isfinite(loss):
            return
        self.losses.append((step, loss))
        self.course.add(step, loss)
        self.last_step = step
        if len(self.first_losses) < _FIRST:
            self.first_losses.append(loss)
        if self.open_restart is not None and len(self.losses) >= _WINDOW:
            self._close_restart()
        if len(self.losses) >= 3 * _WINDOW:
            self._find_shift()
            del self.losses[: len(self.losses) - 2 * _WINDOW]

    @property
    def loss_start(self) -> float:
        """Where the loss came from."""
        return float(np.median(self.first_losses)) if len(self.first_losses) >= _FIRST else math.nan

    def points(self) -> tuple[tuple[float, float], ...]:
        """The course of the loss."""
        return tuple(zip(self.course.steps, self.course.values, strict=True))

    def sample(self, step: int, state_step: int) -> None:
        """Steps of the optimizer's state at a sampled step."""
        self.state_step, self.sampled_at = state_step, step
        if self.restarts and self.open_restart is None and self.restarts[-1].state_step_after < 0:
            latest = self.restarts[-1]
            self.restarts[-1] = replace(latest, state_step_after=self._state_at(latest.step))

    def _state_at(self, step: int) -> int:
        """Steps of the optimizer's state at a step, counted back from the latest sample; -1 when unknown."""
        return max(self.state_step - max(self.sampled_at - step, 0), 0) if self.state_step >= 0 else -1

    def restart(self, attempt: AttemptObservation) -> None:
        """The job begins anew."""
        if self.open_restart is not None:
            self._close_restart()
        self.before = [loss for _, loss in self.losses[-_WINDOW:]]
        self.losses, self.open_restart = [], attempt
        self.state_step_before, self.state_step = self.state_step, -1
        self.step_before = self.last_step
        self.loss_there = self._loss_at(attempt.step)
        self.course.forget_from(attempt.step)

    def _loss_at(self, step: int) -> float:
        """Typical loss of the steps from here on, as they were; the latest losses where there are none."""
        steps, values = self.course.arrays()
        if not steps.size or step > steps[-1]:
            return float(np.median(self.before)) if self.before else math.nan
        there = (steps >= step) & (steps < step + _WINDOW)
        if not there.any():
            there = steps == steps[int(np.abs(steps - step).argmin())]
        return float(np.median(values[there]))

    def _close_restart(self) -> None:
        attempt, self.open_restart = self.open_restart, None
        assert attempt is not None
        after = np.array([loss for _, loss in self.losses[:_WINDOW]])
        before = np.array(self.before)
        self.restarts = [
            *self.restarts[1 - _RESTARTS :],
            Restart(
                step=attempt.step,
                attempt=attempt.attempt,
                world_size=attempt.world_size,
                loss_before=float(np.median(before)) if before.size else math.nan,
                loss_after=float(np.median(after)) if after.size else math.nan,
                noise=_noise(before if before.size > 3 else after),
                state_step_before=self.state_step_before,
                state_step_after=self._state_at(attempt.step),
                loss_there=self.loss_there,
                step_before=self.step_before,
                first_loss=self.loss_start,
            ),
        ]

    def _find_shift(self) -> None:
        """Looks for a jump between two windows of the latest losses, where the later one stays at its level."""
        steps = [step for step, _ in self.losses]
        values = np.array([loss for _, loss in self.losses])
        noise = _noise(values)
        medians = np.median(np.lib.stride_tricks.sliding_window_view(values, _WINDOW), axis=1)
        jumps = medians[_WINDOW:] - medians[:-_WINDOW]
        place = int(np.abs(jumps).argmax())
        best = float(jumps[place])
        if not noise > 0 or abs(best) < _SIGMAS * noise:
            return
        # Medians of long windows say that there is a jump, means of short ones where. Only what happens at once is a jump:
        # of a trend, little would be left between neighbours.
        means = np.lib.stride_tricks.sliding_window_view(values, _NEAR).mean(axis=1)
        close = means[_NEAR:] - means[:-_NEAR]
        low = max(place + _WINDOW - _WINDOW // 2 - _NEAR, 0)
        local = close[low : place + _WINDOW + _WINDOW // 2 - _NEAR]
        at = low + int(np.abs(local).argmax()) + _NEAR
        sudden = abs(float(close[at - _NEAR])) > 0.7 * abs(best)
        near = self.shifts and steps[at] - self.shifts[-1].step < _WINDOW
        if not sudden or near:
            return
        before = float(np.median(values[max(at - _WINDOW, 0) : at]))
        self.shifts = [
            *self.shifts[1 - _SHIFTS :],
            LevelShift(step=steps[at], before=before, after=before + best, sigma=abs(best) / noise),
        ]


def _noise(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Deviation of single values, from the differences of neighbours; robust against jumps and trends."""
    if values.size < 4:
        return math.nan
    return float(np.median(np.abs(np.diff(values)))) * 1.4826 / math.sqrt(2)
