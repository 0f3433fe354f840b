"""The loss model: from points of the loss to an assessment of whether the run still learns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from stallwatch.detector.core.learning import LossAssessment, LossPoint
from stallwatch.detector.core.observations import (
    AttemptObservation,
    EvaluationObservation,
    EventObservation,
    StepObservation,
)
from stallwatch.detector.signals.evaluations import EvaluationSeries
from stallwatch.detector.signals.history import BlockHistory
from stallwatch.detector.signals.learning_rate import LearningRateTracker
from stallwatch.detector.signals.loss_config import LossConfig
from stallwatch.detector.signals.loss_look import Evidence, look
from stallwatch.detector.signals.loss_states import StateMachine
from stallwatch.detector.signals.loss_words import assessment
from stallwatch.detector.signals.recent import RecentValues

_BROKEN = 3
"""One or two values that are not finite are skipped by any loss scaler; so many in a row are no accident."""
_FAR_BACK = 0.1
"""A restart that repeats more than this share of the run begins a new curve."""
_FROM_SCRATCH = 0.05
"""A restart this near to the beginning starts from scratch."""
_RESETTING_EVENTS = frozenset({"lr", "learning_rate", "lr_change", "restart"})


@dataclass(slots=True)
class LossSignal:
    """Follows one run's loss and emits a `LossAssessment` at every look.

    Looks are spaced by 5 % of the time since the settings last changed (every point while there are few), so their number
    grows with the logarithm of the run.
    """

    consumes: ClassVar[tuple[type, ...]] = (
        StepObservation,
        LossPoint,
        EvaluationObservation,
        EventObservation,
        AttemptObservation,
    )

    config: LossConfig = field(default_factory=LossConfig)
    history: BlockHistory = field(default_factory=BlockHistory)
    """Clipped values: one wild point does not bend the fit."""
    recent: RecentValues = field(default_factory=RecentValues)
    rates: LearningRateTracker = field(default_factory=LearningRateTracker)
    states: StateMachine = field(default_factory=StateMachine)
    evaluations: EvaluationSeries = field(default_factory=EvaluationSeries)
    """The evaluation loss: a second opinion, often with much less noise."""
    first_values: list[float] = field(default_factory=list)
    """The first finite values, at most eight: their median is where the run came from."""
    origin: int = -1
    """Step at which the present settings began."""
    points_here: int = 0
    """Finite points since `origin`."""
    next_look: int = 0
    non_finite_streak: int = 0
    latest: LossAssessment | None = None
    """The latest assessment."""

    def update(self, observation: object) -> Iterable[LossAssessment]:
        """Take one observation; return the assessment when a look was due."""
        if isinstance(observation, LossPoint):
            return self._take(
                observation.step, observation.loss, observation.weight, observation.learning_rate
            )
        if isinstance(observation, StepObservation):
            if not (observation.samples > 0).any():
                return ()  # nobody logged a loss at this step
            rates = observation.learning_rates
            return self._take(observation.step, observation.mean_loss(), 1.0, rates[0] if rates else None)
        if isinstance(observation, EvaluationObservation) and math.isfinite(observation.loss):
            same = self.history.last == observation.step and self.recent.latest == observation.loss
            if not same:  # a log whose loss is its evaluation loss has no second opinion
                self.evaluations.add(observation.step, observation.loss)
        if isinstance(observation, EventObservation) and observation.kind in _RESETTING_EVENTS:
            self._reopen(observation.step)
        if isinstance(observation, AttemptObservation):
            self._restarted(observation.step)
        return ()

    def _take(self, step: int, loss: float, weight: float, rate: float | None) -> tuple[LossAssessment, ...]:
        if rate is not None and self.rates.update(step, rate) and self.history.count:
            self._reopen(step)
        if not math.isfinite(loss):
            self.non_finite_streak += 1
            return self._broken(step) if self.non_finite_streak == _BROKEN else ()
        if step < 0 or not weight > 0:
            return ()
        self.non_finite_streak = 0
        if self.origin < 0:
            self.origin = step
        if len(self.first_values) < 8:
            self.first_values.append(loss)
        self.history.add(step, self.recent.clip(loss), weight)
        self.recent.add(loss)
        self.points_here += 1
        if step < self.origin or not self._due(step):
            return ()
        evidence = look(self)
        if evidence is None:
            return ()
        previous = self.states.state
        self.states.update(evidence, self.config)
        self.latest = assessment(self, evidence, previous)
        return (self.latest,)

    def _broken(self, step: int) -> tuple[LossAssessment, ...]:
        """A loss that stays not finite has diverged; what was last known of its level stands."""
        if self.latest is None:
            return ()
        previous = self.states.state
        self.states.break_off(step)
        self.latest = replace(
            self.latest,
            step=step,
            state=self.states.state,
            previous_state=previous,
            since_step=step,
            since_step_error=float(_BROKEN),
            confidence=1.0,
            reason=f"The loss has not been a finite number for {_BROKEN} steps in a row, up to step {step:,}.",
        )
        return (self.latest,)

    def _reopen(self, step: int) -> None:
        """The settings changed: what was learned about the future no longer holds."""
        self.origin = step if self.history.last < 0 else min(step, self.history.last + 1)
        self.points_here = 0
        self.next_look = 0
        self.states.reopen(step)

    def _restarted(self, step: int) -> None:
        """A new attempt: what it repeats adds to its blocks, unless it goes back so far that a new curve begins."""
        history = self.history
        span = history.last - history.first
        if history.count == 0 or history.last - step <= _FAR_BACK * span:
            return
        if step - history.first <= _FROM_SCRATCH * span:
            self.first_values = []
        self.history = BlockHistory()
        self.recent = RecentValues()
        self.evaluations = EvaluationSeries()
        self._reopen(step)

    def _due(self, step: int) -> bool:
        if self.points_here < self.config.minimum_points or step < self.next_look:
            return False
        age = step + 1 - self.origin
        dense = self.points_here < self.config.dense_looks
        self.next_look = step + 1 if dense else step + max(1, math.floor(age * self.config.look_spacing))
        return True


__all__ = ["Evidence", "LossConfig", "LossSignal"]
