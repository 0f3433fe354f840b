"""SageMaker Debugger's rules about the loss. Definitions and defaults: Amazon SageMaker AI developer guide, built-in rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.core.learning import LossPoint
from stallwatch.detector.core.observations import EvaluationObservation, StepObservation
from stallwatch.detector.rules.contract import RuleHit


def loss_of(observation: object) -> tuple[int, float] | None:
    """Step and training loss; None for anything else and for losses that are no number."""
    if isinstance(observation, LossPoint):
        step, loss = observation.step, observation.loss
    elif isinstance(observation, StepObservation):
        step, loss = observation.step, observation.mean_loss()
    else:
        return None
    return (step, loss) if math.isfinite(loss) else None


@dataclass(slots=True)
class LossNotDecreasing:
    """Every `num_steps` steps: the loss has not fallen by `diff_percent` since `num_steps` steps before, or has risen."""

    name: ClassVar[str] = "LossNotDecreasing"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, LossPoint)

    num_steps: int = 10
    diff_percent: float = 0.1
    increase_threshold_percent: float = 5.0
    before: tuple[int, float] | None = None

    def update(self, observation: object) -> RuleHit | None:
        """Take one loss."""
        point = loss_of(observation)
        if point is None:
            return None
        step, loss = point
        if self.before is None:
            self.before = point
            return None
        since, reference = self.before
        if step - since < self.num_steps:
            return None
        self.before = point
        change = 100 * (loss - reference) / abs(reference) if reference else 0.0
        if change > self.increase_threshold_percent:
            return RuleHit(step, f"the loss rose by {change:.3g} % since step {since}")
        if change > -self.diff_percent:
            return RuleHit(step, f"the loss fell by {-change:.3g} % since step {since}")
        return None


@dataclass(slots=True)
class Overfit:
    """The evaluation loss is above the training loss by more than a share of it, `patience` times in a row."""

    name: ClassVar[str] = "Overfit"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, LossPoint, EvaluationObservation)

    ratio_threshold: float = 0.1
    patience: int = 1
    total: float = 0.0
    count: int = 0
    """Training losses since the evaluation before."""
    streak: int = 0

    def update(self, observation: object) -> RuleHit | None:
        """Take one loss or evaluation."""
        point = loss_of(observation)
        if point is not None:
            self.total += point[1]
            self.count += 1
            return None
        if not isinstance(observation, EvaluationObservation) or not self.count:
            return None
        training, self.total, self.count = self.total / self.count, 0.0, 0
        ratio = (observation.loss - training) / training if training else 0.0
        self.streak = self.streak + 1 if ratio > self.ratio_threshold else 0
        if self.streak < self.patience:
            return None
        return RuleHit(
            observation.step, f"the evaluation loss is {100 * ratio:.3g} % above the training loss"
        )


@dataclass(slots=True)
class Patience:
    """The best value of a series, and how long ago it was."""

    best: float = math.inf
    since: int = 0

    def add(self, value: float, delta: float) -> int:
        """Take one value; values since the last improvement by more than `delta`."""
        if value < self.best - delta:
            self.best, self.since = value, 0
        else:
            self.since += 1
        return self.since


@dataclass(slots=True)
class Overtraining:
    """No new best training loss for `patience_train` steps, or evaluation loss for `patience_validation` evaluations."""

    name: ClassVar[str] = "Overtraining"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, LossPoint, EvaluationObservation)

    patience_train: int = 5
    patience_validation: int = 10
    delta: float = 0.01
    training: Patience = field(default_factory=Patience)
    evaluation: Patience = field(default_factory=Patience)

    def update(self, observation: object) -> RuleHit | None:
        """Take one loss or evaluation."""
        point = loss_of(observation)
        if point is not None:
            since = self.training.add(point[1], self.delta)
            if since > 0 and since % self.patience_train == 0:
                return RuleHit(point[0], f"no better training loss for {since} steps")
        elif isinstance(observation, EvaluationObservation) and math.isfinite(observation.loss):
            since = self.evaluation.add(observation.loss, self.delta)
            if since > 0 and since % self.patience_validation == 0:
                return RuleHit(observation.step, f"no better evaluation loss for {since} evaluations")
        return None
