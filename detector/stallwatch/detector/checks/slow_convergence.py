"""The loss looks flat: it still falls, slowly, or its fall cannot be told from its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.checks.plateau import loss_evidence
from stallwatch.detector.core.learning import STOPPED_STATES, LossAssessment, LossForecast
from stallwatch.detector.core.verdicts import Verdict

_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class SlowConvergenceConfig:
    """Settings of the slow-convergence check."""

    minimum_confidence: float = 0.8
    """Probability that a material improvement is still to come, below which nothing is said."""
    minimum_improvement: float = 0.03
    """A run that is expected to improve by more than this over the horizon is not slow for a human either."""
    persistence: int = 3
    """Looks in a row that must agree."""
    unresolved_share: float = 0.4
    """An improvement that cannot be told from none is said to look flat when that has lasted for this share of the age."""
    fewest_steps: int = 500
    """... of at least so many steps."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_confidence <= 1:
            raise ValueError(f"minimum_confidence must lie in [0, 1], not {self.minimum_confidence}")
        if not self.minimum_improvement > 0:
            raise ValueError(f"minimum_improvement must be above 0, not {self.minimum_improvement}")
        if self.persistence < 1:
            raise ValueError(f"persistence must be at least 1, not {self.persistence}")
        if not 0 < self.unresolved_share < 1:
            raise ValueError(f"unresolved_share must lie between 0 and 1, not {self.unresolved_share}")


@dataclass(slots=True)
class SlowConvergence:
    """Finds a loss that looks flat and is not known to be.

    Either it falls for certain, at a rate that looks like a plateau: then the next 1 % is due in so many steps. Or it is so
    noisy that for two fifths of its age nobody could tell its fall from none: that is so of most healthy runs, and a finding
    only where the diagnosis names a fault besides.

    It cannot say whether the rate could be higher; the diagnosis does.
    """

    kind: ClassVar[str] = "slow_convergence"
    consumes: ClassVar[tuple[type, ...]] = (LossAssessment,)

    config: SlowConvergenceConfig = field(default_factory=SlowConvergenceConfig)
    looks: int = 0
    unresolved_from: int = -1
    """Step of the first look of the present row that could not tell a fall from none; -1 when there is none."""
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
        certain = self.looks >= self.config.persistence
        unresolved = self._is_unresolved(observation)
        was, self.firing = self.firing, certain or unresolved
        if not self.firing and not was:
            return None
        if unresolved and not certain:
            return self._unresolved(observation)
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

    def _is_unresolved(self, seen: LossAssessment) -> bool:
        """Whether for long enough no fall could be told from the noise, in a run that nothing else is said of."""
        forecast = seen.forecast
        # Told from none is an improvement of more than one standard error.
        if (
            forecast is None
            or seen.state in STOPPED_STATES
            or not forecast.relative_improvement < _error(forecast)
            or not _error(forecast) > 0
        ):
            self.unresolved_from = -1
            return False
        if self.unresolved_from < 0:
            self.unresolved_from = seen.step
        # The horizon is half the age of the present settings.
        age = 2 * forecast.horizon_steps
        lasted = seen.step - self.unresolved_from
        return age >= self.config.fewest_steps and lasted >= self.config.unresolved_share * age

    def _unresolved(self, seen: LossAssessment) -> Verdict:
        forecast = seen.forecast
        assert forecast is not None
        error = _error(forecast)
        below = 0.5 * math.erfc(
            (forecast.relative_improvement - self.config.minimum_improvement) / (error * 2**0.5)
        )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=seen.step,
            since_step=self.unresolved_from,
            since_step_error=self.config.unresolved_share * forecast.horizon_steps,
            confidence=below,
            score=forecast.relative_improvement,
            threshold=error,
            reason=(
                f"The loss looks flat since about step {self.unresolved_from:,}, at {seen.level:.4g}: the "
                f"{100 * max(forecast.relative_improvement, 0.0):.2g} % that it may still fall in the next {forecast.horizon_steps:,} steps "
                f"cannot be told from nothing in its noise (95 %: {100 * forecast.low:.2g} to {100 * forecast.high:.2g} %)."
            ),
            evidence=loss_evidence(seen) | {"form": "unresolved"},
            advice=_advice(seen, None),
            needs_cause=True,
        )


def _error(forecast: LossForecast) -> float:
    """One standard error of the improvement."""
    return (forecast.high - forecast.low) / (2 * _NORMAL_95)


def _advice(assessment: LossAssessment, due: int | None) -> tuple[str, ...]:
    wait = (
        f"Let it run if {due:,} steps for 1 % are worth their price."
        if due is not None
        else "Decide by its price."
    )
    rate = assessment.learning_rate
    raised = f" ({rate:.3g} now)" if rate is not None else ""
    return (wait, f"Look at the causes first: a learning rate that is too low{raised} looks like this.")
