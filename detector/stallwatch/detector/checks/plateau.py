"""The loss has stopped falling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict


@dataclass(frozen=True, slots=True)
class PlateauConfig:
    """Settings of the plateau check; when a plateau is called at all is the loss model's decision."""

    minimum_confidence: float = 0.0
    """Plateaus of a lower confidence are not reported."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_confidence <= 1:
            raise ValueError(f"minimum_confidence must lie in [0, 1], not {self.minimum_confidence}")


@dataclass(slots=True)
class Plateau:
    """Finds that no meaningful improvement is to be expected at these settings.

    It judges the training loss at the learning rate of now: it cannot know that another learning rate would help, and it
    says nothing of generalisation.
    """

    kind: ClassVar[str] = "plateau"
    consumes: ClassVar[tuple[type, ...]] = (LossAssessment,)

    config: PlateauConfig = field(default_factory=PlateauConfig)
    firing: bool = False

    def update(self, observation: object) -> Verdict | None:
        """Follow the loss model's state."""
        if not isinstance(observation, LossAssessment):
            return None
        flat = observation.state == "plateau" and observation.confidence >= self.config.minimum_confidence
        if not flat and not self.firing:
            return None
        self.firing = flat
        return Verdict(
            kind=self.kind,
            firing=flat,
            step=observation.step,
            since_step=observation.since_step,
            since_step_error=observation.since_step_error,
            confidence=observation.confidence,
            score=observation.plateau_probability,
            threshold=self.config.minimum_confidence,
            reason=observation.reason,
            evidence=loss_evidence(observation),
            advice=_advice(observation) if flat else (),
        )


def loss_evidence(assessment: LossAssessment) -> dict[str, EvidenceValue]:
    """The numbers that every learning finding shows."""
    forecast = assessment.forecast
    evidence: dict[str, EvidenceValue] = {
        "level": assessment.level,
        "slope_per_step": assessment.slope_per_step,
        "slope_low": assessment.slope_low,
        "slope_high": assessment.slope_high,
        "noise": assessment.noise,
        "plateau_probability": assessment.plateau_probability,
        "material_gain": assessment.material_gain,
    }
    if forecast is not None:
        evidence["horizon_steps"] = forecast.horizon_steps
        evidence["expected_improvement"] = forecast.relative_improvement
        evidence["expected_improvement_low"] = forecast.low
        evidence["expected_improvement_high"] = forecast.high
    if assessment.learning_rate is not None:
        evidence["learning_rate"] = assessment.learning_rate
    if assessment.learning_rate_ratio is not None:
        evidence["learning_rate_ratio"] = assessment.learning_rate_ratio
    return evidence


def _advice(assessment: LossAssessment) -> tuple[str, ...]:
    rate, ratio = assessment.learning_rate, assessment.learning_rate_ratio
    first = assessment.step + 1 - assessment.steps_observed
    if assessment.since_step <= first:
        return _advice_from_the_start(assessment)
    horizon = (
        assessment.forecast.horizon_steps if assessment.forecast is not None else assessment.steps_observed
    )
    if rate is not None and ratio is not None and ratio < 0.01:
        return (
            (
                f"The learning rate ({rate:.3g}) is at {100 * ratio:.2g} % of its peak: the schedule has ended the training. "
                "Stop here, or restart the schedule if the loss is not yet good enough."
            ),
            f"If the schedule is unintended, return to about {rate / max(ratio, 1e-12) / 10:.2g}, a tenth of the peak.",
        )
    steps = [
        f"Stop, or change something: {horizon:,} more steps at these settings are not expected to pay.",
    ]
    if rate is not None and rate > 0:
        steps.insert(
            0, f"Cut the learning rate from {rate:.3g} to about {rate / 10:.2g} and watch the next looks."
        )
    else:
        steps.insert(0, "Cut the learning rate by 3 to 10 and watch the next looks.")
    steps.append(
        f"If a cut does not help, noise ({assessment.noise:.3g} per point) or capacity is the limit, not time."
    )
    return tuple(steps)


def _advice_from_the_start(assessment: LossAssessment) -> tuple[str, ...]:
    """A run that never moved has not outgrown its learning rate: it is finished, or its steps are too small."""
    rate = assessment.learning_rate
    to = (
        f" from {rate:.3g} to {3 * rate:.2g} and then {10 * rate:.2g}"
        if rate is not None and rate > 0
        else " by 3 to 10"
    )
    return (
        (
            f"The loss has not left {assessment.level:.4g} since the first step: unless that is good enough, raise the learning "
            f"rate{to} and watch the next looks."
        ),
        "Check that the optimizer holds the model's parameters, that they require gradients, and that these are not zero.",
        "If a run on one small batch does not get below this level either, data, labels or loss are at fault.",
    )
