"""A NaN or an infinity appeared in the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from stallwatch.detector.core.learning import LossPoint
from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class NonFiniteConfig:
    """Settings of the non-finite check."""

    resolve_after: int = 64
    """Finite steps in a row after which the finding resolves."""

    def __post_init__(self) -> None:
        if self.resolve_after < 1:
            raise ValueError(f"resolve_after must be at least 1, not {self.resolve_after}")


@dataclass(slots=True)
class NonFinite:
    """Finds the first NaN or infinity of the loss: its step and its ranks.

    A rank that logged samples and a loss that is not a number had it; a rank that logged nothing did not. Gradients and
    layers are other checks' business.
    """

    kind: ClassVar[str] = "non_finite"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, LossPoint)

    config: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    first_step: int = -1
    """Where the present series of bad values began; -1 when there is none."""
    first_ranks: tuple[int, ...] = ()
    infinite: bool = False
    bad_steps: int = 0
    finite_streak: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one step."""
        if isinstance(observation, StepObservation):
            bad = ~np.isfinite(observation.loss_sum) & (observation.samples > 0)
            if not bad.any():
                return self._finite(observation.step) if np.isfinite(observation.loss_sum).any() else None
            ranks = tuple(rank for rank, wrong in zip(observation.ranks, bad.tolist(), strict=True) if wrong)
            return self._bad(
                observation.step, ranks, infinite=bool(np.isinf(observation.loss_sum[bad]).all())
            )
        if isinstance(observation, LossPoint):
            if math.isfinite(observation.loss):
                return self._finite(observation.step)
            return self._bad(observation.step, (), infinite=math.isinf(observation.loss))
        return None

    def _finite(self, step: int) -> Verdict | None:
        if self.first_step < 0:
            return None
        self.finite_streak += 1
        if self.finite_streak < self.config.resolve_after:
            return None
        verdict = self._verdict(step, firing=False)
        self.first_step, self.first_ranks, self.bad_steps = -1, (), 0
        return verdict

    def _bad(self, step: int, ranks: tuple[int, ...], *, infinite: bool) -> Verdict | None:
        self.finite_streak = 0
        self.bad_steps += 1
        if self.first_step >= 0:
            # Say it again at powers of two, so that the count in the finding stays about right at little cost.
            return self._verdict(step, firing=True) if self.bad_steps & (self.bad_steps - 1) == 0 else None
        self.first_step, self.first_ranks, self.infinite = step, ranks, infinite
        return self._verdict(step, firing=True)

    def _verdict(self, step: int, *, firing: bool) -> Verdict:
        what = "infinite" if self.infinite else "NaN"
        where = f" on rank {', '.join(map(str, self.first_ranks[:8]))}" if self.first_ranks else ""
        count = f", {self.bad_steps:,} steps so far" if self.bad_steps > 1 else ""
        reason = f"The loss was {what} first at step {self.first_step:,}{where}{count}."
        if not firing:
            reason = (
                f"The loss has been finite again for {self.finite_streak:,} steps; it was {what} first at step "
                f"{self.first_step:,}{where}."
            )
        return Verdict(
            kind=self.kind,
            firing=firing,
            step=step,
            since_step=self.first_step,
            score=float(self.bad_steps),
            threshold=0.0,
            reason=reason,
            evidence={"first_step": self.first_step, "bad_steps": self.bad_steps, "infinite": self.infinite},
            advice=(
                f"Go back to a checkpoint from before step {self.first_step:,}: later weights may be spoiled.",
                "With mixed precision, check the loss scale and use bfloat16 or float32 for the loss.",
                "Look at that step's batch for empty or corrupt samples, and at divisions and logarithms of zero.",
            )
            if firing
            else (),
            ranks=self.first_ranks,
        )
