"""The loss rises for good."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.checks.plateau import loss_evidence
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class DivergenceConfig:
    """Settings of the divergence check; what counts as a rise is the loss model's decision."""

    minimum_rise: float = 0.0
    """Rise above the best level below which nothing is said, as a share of the loss."""

    def __post_init__(self) -> None:
        if self.minimum_rise < 0:
            raise ValueError(f"minimum_rise must not be negative, not {self.minimum_rise}")


@dataclass(slots=True)
class Divergence:
    """Finds a loss that rises with confidence and does not recover.

    A rise that recovers by itself is a `loss_spike`; values that are not finite are `non_finite`.
    """

    kind: ClassVar[str] = "divergence"
    consumes: ClassVar[tuple[type, ...]] = (LossAssessment,)

    config: DivergenceConfig = field(default_factory=DivergenceConfig)
    firing: bool = False

    def update(self, observation: object) -> Verdict | None:
        """Follow the loss model's state."""
        if not isinstance(observation, LossAssessment):
            return None
        rising = observation.state == "diverging" and observation.rise >= self.config.minimum_rise * abs(
            observation.level
        )
        if not rising and not self.firing:
            return None
        self.firing = rising
        rate = observation.learning_rate
        cut = (
            f"and a lower learning rate than {rate:.3g}, a third at most"
            if rate
            else "and a third of the learning rate"
        )
        return Verdict(
            kind=self.kind,
            firing=rising,
            step=observation.step,
            since_step=observation.since_step,
            since_step_error=observation.since_step_error,
            confidence=observation.confidence,
            score=observation.rise,
            threshold=2 * observation.material_gain,
            reason=observation.reason,
            evidence=loss_evidence(observation)
            | {"best": observation.best, "rise": observation.rise, "rise_sigma": observation.rise_sigma},
            advice=(
                f"Go back to a checkpoint from before step {observation.since_step:,} {cut}.",
                "Clip gradients by norm if the gradient norm jumped with the loss.",
            )
            if rising
            else (),
        )
