"""Causes that are findings of their own when they are strong, whatever the loss does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.causes import CAUSES
from stallwatch.detector.diagnosis.weighing import Weighing


@dataclass(frozen=True, slots=True)
class StandaloneConfig:
    """Settings of a cause that stands for itself."""

    confirmations: int = 3
    """Looks in a row at which an invariant must be broken."""
    score: float = 6.0
    """Evidence it takes, in nats: 1 in 400 against something else."""
    resolve_looks: int = 3
    """Looks in a row without it that resolve the finding."""

    def __post_init__(self) -> None:
        if self.confirmations < 1 or self.resolve_looks < 1:
            raise ValueError("confirmations and resolve_looks must be at least 1")


@dataclass(slots=True)
class StandaloneCause:
    """Finds one cause by itself: its invariant is broken, look after look."""

    consumes: ClassVar[tuple[type, ...]] = (Vitals,)

    kind: str
    config: StandaloneConfig = field(default_factory=StandaloneConfig)
    looks: int = 0
    """Looks in a row that found it."""
    quiet: int = 0
    first_step: int = -1
    firing: bool = False

    def update(self, observation: object) -> Verdict | None:
        """Take one look."""
        if not isinstance(observation, Vitals):
            return None
        weighing = CAUSES[self.kind](observation)
        found = weighing is not None and weighing.decisive and weighing.score >= self.config.score
        if not found:
            self.looks = 0
            self.quiet += 1
            return self._resolve(observation.step) if self.firing else None
        assert weighing is not None
        self.quiet = 0
        if not self.looks and not self.firing:
            self.first_step = observation.step
        self.looks += 1
        if not self.firing and self.looks < self.config.confirmations:
            return None
        self.firing = True
        return self._verdict(observation.step, weighing)

    def _resolve(self, step: int) -> Verdict | None:
        if self.quiet < self.config.resolve_looks:
            return None
        self.firing = False
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            since_step=self.first_step,
            reason=f"No longer so at {self.quiet} looks in a row.",
        )

    def _verdict(self, step: int, weighing: Weighing) -> Verdict:
        advice = (
            (*weighing.advice, f"To confirm: {weighing.experiment}")
            if weighing.experiment
            else weighing.advice
        )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=weighing.since_step if weighing.since_step >= 0 else self.first_step,
            confidence=0.9,
            score=weighing.score,
            threshold=self.config.score,
            reason=weighing.reason,
            evidence={
                "for": tuple(term.text for term in weighing.terms if term.nats >= 0.5),
                "against": tuple(term.text for term in weighing.terms if term.nats <= -0.5),
            },
            advice=advice[:3],
            ranks=weighing.ranks,
            layers=weighing.layers,
        )
