"""The loss still falls, so slowly that it looks flat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.checks.plateau import loss_evidence
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class SlowConvergenceConfig:
    """Settings of the slow-convergence check."""

    minimum_confidence: float = 0.8
    """Probability that a material improvement is still to come, below which nothing is said."""
    minimum_improvement: float = 0.03
    """A run that is expected to improve by more than this over the horizon is not slow for a human either."""
    persistence: int = 3
    """Looks in a row that must agree."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_confidence <= 1:
            raise ValueError(f"minimum_confidence must lie in [0, 1], not {self.minimum_confidence}")
        if not self.minimum_improvement > 0:
            raise ValueError(f"minimum_improvement must be above 0, not {self.minimum_improvement}")
        if self.persistence < 1:
            raise ValueError(f"persistence must be at least 1, not {self.persistence}")


@dataclass(slots=True)
class SlowConvergence:
    """Finds a loss that falls for certain, at a rate that looks like a plateau, and says when the next 1 % is due.

    It cannot say whether the rate could be higher; the diagnosis does.
    """

    kind: ClassVar[str] = "slow_convergence"
    consumes: ClassVar[tuple[type, ...]] = (LossAssessment,)

    config: SlowConvergenceConfig = field(default_factory=SlowConvergenceConfig)
    looks: int = 0
    firing: bool = False

    def update(self, observation: object) -> Verdict | None:
        """Follow the loss model's state."""
        if not isinstance(observation, LossAssessment):
            return None
        forecast = observation.forecast
        slow = (
            observation.state == "slow"
            and observation.confidence >= self.config.minimum_confidence
            and observation.slope_high < 0
            and forecast is not None
            and forecast.relative_improvement < self.config.minimum_improvement
        )
        self.looks = self.looks + 1 if slow else 0
        was, self.firing = self.firing, self.looks >= self.config.persistence
        if not self.firing and not was:
            return None
        due = observation.next_percent_steps
        words = f"; the next 1 % is due in about {due:,} steps" if due is not None else ""
        return Verdict(
            kind=self.kind,
            firing=self.firing,
            step=observation.step,
            since_step=observation.since_step,
            since_step_error=observation.since_step_error,
            confidence=observation.confidence,
            score=observation.confidence,
            threshold=self.config.minimum_confidence,
            reason=observation.reason.rstrip(".") + words + ".",
            evidence=loss_evidence(observation) | {"next_percent_steps": due},
            advice=_advice(observation, due) if self.firing else (),
        )


def _advice(assessment: LossAssessment, due: int | None) -> tuple[str, ...]:
    wait = (
        f"Let it run if {due:,} steps for 1 % are worth their price."
        if due is not None
        else "Decide by its price."
    )
    rate = assessment.learning_rate
    raised = f" ({rate:.3g} now)" if rate is not None else ""
    return (wait, f"Look at the causes first: a learning rate that is too low{raised} looks like this.")
