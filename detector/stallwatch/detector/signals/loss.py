"""The loss model: from points of the loss to an assessment of whether the run still learns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
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
    lowest: float = math.inf
    """The lowest value so far: says whether the loss can be negative."""

    def update(self, observation: object) -> Iterable[LossAssessment]:
        """Take one observation; return the assessment when a look was due."""
        if isinstance(observation, LossPoint):
            return self._take(observation.step, observation.loss, observation.weight, observation.learning_rate)
        if isinstance(observation, StepObservation):
            rates = observation.learning_rates
            return self._take(observation.step, observation.mean_loss(), 1.0, rates[0] if rates else None)
        if isinstance(observation, EvaluationObservation) and math.isfinite(observation.loss):
            same = self.history.last == observation.step and self.recent.latest == observation.loss
            if not same:  # a log whose loss is its evaluation loss has no second opinion
                self.evaluations.add(observation.step, observation.loss)
        if isinstance(observation, EventObservation) and observation.kind in _RESETTING_EVENTS:
            self._reopen(observation.step)
        return ()

    def _take(self, step: int, loss: float, weight: float, rate: float | None) -> tuple[LossAssessment, ...]:
        if rate is not None and self.rates.update(step, rate) and self.history.count:
            self._reopen(step)
        if not math.isfinite(loss):
            self.non_finite_streak += 1
            return ()
        if step < 0 or not weight > 0:
            return ()
        self.non_finite_streak = 0
        if self.origin < 0:
            self.origin = step
        self.lowest = min(self.lowest, loss)
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
        return (assessment(self, evidence, previous),)

    def _reopen(self, step: int) -> None:
        """The settings changed: what was learned about the future no longer holds."""
        self.origin = step
        self.points_here = 0
        self.next_look = 0
        self.states.reopen(step)

    def _due(self, step: int) -> bool:
        if self.points_here < self.config.minimum_points or step < self.next_look:
            return False
        age = step + 1 - self.origin
        dense = self.points_here < self.config.dense_looks
        self.next_look = step + 1 if dense else step + max(1, math.floor(age * self.config.look_spacing))
        return True


__all__ = ["Evidence", "LossConfig", "LossSignal"]
