"""The loss moves a lot and gets nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.checks.plateau import loss_evidence
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class OscillationConfig:
    """Settings of the oscillation check; what counts as a swing is the loss model's decision."""

    minimum_swing: float = 0.0
    """Amplitude below which nothing is said, as a share of the loss."""

    def __post_init__(self) -> None:
        if self.minimum_swing < 0:
            raise ValueError(f"minimum_swing must not be negative, not {self.minimum_swing}")


@dataclass(slots=True)
class Oscillation:
    """Finds a loss that swings periodically, or from step to step, without net progress.

    Swings faster than a block of the history are seen only where they alternate from point to point.
    """

    kind: ClassVar[str] = "oscillation"
    consumes: ClassVar[tuple[type, ...]] = (LossAssessment,)

    config: OscillationConfig = field(default_factory=OscillationConfig)
    firing: bool = False

    def update(self, observation: object) -> Verdict | None:
        """Follow the loss model's state."""
        if not isinstance(observation, LossAssessment):
            return None
        size = max(observation.swing, observation.noise)
        swings = observation.state == "oscillating" and size >= self.config.minimum_swing * abs(
            observation.level
        )
        if not swings and not self.firing:
            return None
        self.firing = swings
        rate = observation.learning_rate
        cut = f"Halve the learning rate ({rate:.3g} now)" if rate is not None else "Halve the learning rate"
        return Verdict(
            kind=self.kind,
            firing=swings,
            step=observation.step,
            since_step=observation.since_step,
            since_step_error=observation.since_step_error,
            confidence=observation.confidence,
            score=size,
            threshold=2 * observation.material_gain,
            reason=observation.reason,
            evidence=loss_evidence(observation)
            | {"swing": observation.swing, "period_steps": observation.period_steps},
            advice=(
                f"{cut}: swings of {size:.3g} without progress point at steps that overshoot.",
                "Raise the batch size or the momentum's damping if a lower learning rate only slows it.",
            )
            if swings
            else (),
        )
