"""Training loss falls while evaluation loss rises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.observations import EvaluationObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.signals.evaluations import Evaluations


@dataclass(frozen=True, slots=True)
class OverfittingConfig:
    """Settings of the overfitting check."""

    minimum_evaluations: int = 8
    """Evaluations before anything is said."""
    confidence: float = 0.99
    """One-sided confidence that the evaluation loss rises after its best point; all evaluations so far share the doubt."""
    persistence: int = 2
    """Evaluations in a row that must agree."""
    rise_share: float = 0.05
    """Rise since the best that matters, as a share of the evaluation loss's whole fall."""
    level_share: float = 0.01
    """... and at least this share of the evaluation loss."""

    def __post_init__(self) -> None:
        if self.minimum_evaluations < 6:
            raise ValueError(f"minimum_evaluations must be at least 6, not {self.minimum_evaluations}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, not {self.confidence}")
        if self.persistence < 1:
            raise ValueError(f"persistence must be at least 1, not {self.persistence}")
        if self.rise_share < 0 or self.level_share < 0:
            raise ValueError("rise_share and level_share must not be negative")


@dataclass(slots=True)
class Overfitting:
    """Finds an evaluation loss that rises from its best point on while the training loss does not.

    A small evaluation set shows as noise of the evaluation loss and widens its error by itself. A curve that bends more than
    a parabola and has no noise at all is called late: it cannot be told from a slow drift of the noise.
    """

    kind: ClassVar[str] = "overfitting"
    consumes: ClassVar[tuple[type, ...]] = (LossAssessment, EvaluationObservation)

    config: OverfittingConfig = field(default_factory=OverfittingConfig)
    evaluations: Evaluations = field(default_factory=Evaluations)
    training_state: str = "warming_up"
    training_level: float = 0.0
    looks: int = 0
    """Evaluations in a row that found a rise."""
    firing: bool = False

    def update(self, observation: object) -> Verdict | None:
        """Remember the training state; judge at each evaluation."""
        if isinstance(observation, LossAssessment):
            self.training_state, self.training_level = observation.state, observation.level
            return None
        if not isinstance(observation, EvaluationObservation) or not self.evaluations.take(observation):
            return None
        series = self.evaluations.loss
        if len(series) < self.config.minimum_evaluations:
            return None
        steps, values, _ = series.arrays()
        smooth = series.smoothed()
        lowest = int(np.argmin(smooth))
        best, best_step = float(smooth[lowest]), int(steps[lowest + 1])
        # The three points of the minimum were chosen for being low: a line from them would rise in pure noise.
        after = int(steps[min(lowest + 3, len(steps) - 1)])
        trend = series.trend_since(after, curved=True)
        level = float(np.mean(values[-3:]))
        rise = level - best
        material = max(
            self.config.rise_share * (float(values[0]) - best), self.config.level_share * abs(best)
        )
        doubt = (1 - self.config.confidence) / len(series)
        sure = trend is not None and trend.interval(1 - 2 * doubt)[0] > 0
        found = sure and rise > material and self.training_state in {"improving", "slow", "plateau"}
        self.looks = self.looks + 1 if found else 0
        rising = self.looks >= self.config.persistence or (self.firing and found)
        if not rising and (not self.firing or rise > material):
            return None
        self.firing = rising
        probability = 1 - trend.probability_below(0.0) if trend is not None else 0.5
        return Verdict(
            kind=self.kind,
            firing=rising,
            step=observation.step,
            since_step=best_step,
            since_step_error=float(np.median(np.diff(steps))),
            confidence=min(probability, 0.99),
            score=rise,
            threshold=material,
            reason=(
                f"The evaluation loss has risen from {best:.4g} at step {best_step:,} to {level:.4g} while the training "
                f"loss is {self.training_state} at {self.training_level:.4g}."
            )
            if rising
            else f"The evaluation loss is back at {level:.4g}, near its best of {best:.4g}.",
            evidence={
                "best": best,
                "best_step": best_step,
                "level": level,
                "training_loss": self.training_level,
            },
            advice=(
                f"Keep the checkpoint nearest to step {best_step:,}, where the evaluation loss was lowest.",
                "Stop, or add data, augmentation, weight decay or dropout before training on.",
            )
            if rising
            else (),
        )
