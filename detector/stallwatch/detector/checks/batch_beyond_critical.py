"""The effective batch is far beyond the critical one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.core.scaling import NoiseScaleObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.vitals import Vitals

_LEAST_SCALE = 1.0
"""A batch cannot be smaller than one sample, whatever the noise scale is."""
_CHANGED = 1.5
"""The finding is said anew when the batch over the critical one has changed by this factor."""
_UNDERSHOOTS = 0.1
"""Cosine of the gradient and the step before it: above, steps could be longer."""


@dataclass(frozen=True, slots=True)
class BatchBeyondCriticalConfig:
    """Settings of the critical batch check."""

    excess: float = 2.0
    """The batch must be so many times the upper bound of the noise scale. The noise scale is the critical batch up to a
    factor of about two either way; at this factor three quarters of it are certain, and two samples in three are wasted."""
    looks: int = 16
    """Sampled steps in a row at which it must be."""
    run_share: float = 0.5
    """... and for this share of the steps since the noise scale was first known: in the beginning all gradients agree, the
    noise scale is small, and it grows by itself."""
    resolve_excess: float = 1.5
    """The finding resolves when the batch is below so many times the upper bound ..."""
    resolve_looks: int = 4
    """... at so many sampled steps in a row."""

    def __post_init__(self) -> None:
        if self.looks < 1 or self.resolve_looks < 1:
            raise ValueError("looks and resolve_looks must be at least 1")
        if not 0 < self.resolve_excess <= self.excess:
            raise ValueError("resolve_excess must be above 0 and at most excess")
        if not 0 <= self.run_share < 1:
            raise ValueError(f"run_share must be a share from 0 to below 1, not {self.run_share}")


@dataclass(slots=True)
class BatchBeyondCritical:
    """Finds data-parallel training whose batch is so large that more ranks buy steps a second but no progress a sample.

    Compared with the upper end of the noise scale's interval, so an uncertain estimate calls nothing; and only when it has
    held for half the run. Whether the loss stalls is not asked: the finding says what the ranks are worth.

    The noise scale measures the critical batch as an order of magnitude, and momentum, curvature and Adam's own scaling move
    the true one by a factor of two or more either way. It sees nothing with one rank, in sharded models, or where no samples
    are logged. After McCandlish et al., arXiv 1812.06162.
    """

    kind: ClassVar[str] = "batch_beyond_critical"
    consumes: ClassVar[tuple[type, ...]] = (NoiseScaleObservation, Vitals)

    config: BatchBeyondCriticalConfig = field(default_factory=BatchBeyondCriticalConfig)
    known_since: int = -1
    """Step of the first estimate."""
    since: int = 0
    streak: int = 0
    quiet: int = 0
    alignment: float = math.nan
    """Mean cosine of the negative gradient and the step before it, lately."""
    said: float = 0.0
    """Batch over the critical one as last said; 0 while not firing."""

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, Vitals):
            self.alignment = observation.optimization.alignment_mean
            return None
        if not isinstance(observation, NoiseScaleObservation):
            return None
        if self.known_since < 0:
            self.known_since = observation.step
        excess = observation.noise_batch / max(observation.high, _LEAST_SCALE)
        if excess > self.config.excess:
            if not self.streak:
                self.since = observation.step
            self.streak += 1
            self.quiet = 0
        else:
            self.streak = 0
            self.quiet = self.quiet + 1 if excess < self.config.resolve_excess else 0
        return self._conclude(observation, excess)

    def _conclude(self, seen: NoiseScaleObservation, excess: float) -> Verdict | None:
        if self.said:
            if self.quiet >= self.config.resolve_looks:
                self.said = 0.0
                return Verdict(
                    kind=self.kind,
                    firing=False,
                    step=seen.step,
                    reason=f"The batch of {seen.effective_batch:,.0f} samples is {excess:.2g} times the noise scale's upper "
                    f"bound of {seen.high:,.0f}.",
                )
            if not self.streak or 1 / _CHANGED < _over(seen) / self.said < _CHANGED:
                return None
        else:
            lasted, known = seen.step - self.since, seen.step - self.known_since
            if self.streak < self.config.looks or lasted < self.config.run_share * known:
                return None
        self.said = _over(seen)
        return self._verdict(seen, excess)

    def _verdict(self, seen: NoiseScaleObservation, excess: float) -> Verdict:
        scale = _scale(seen)
        over = _over(seen)
        worth = seen.noise_batch / seen.world_size
        useful = max(int(scale / worth), 1)
        bound = f"{scale:,.3g}" if seen.scale is not None else f"at most {scale:,.3g}"
        advice = [
            (
                f"At {worth:,.3g} samples a rank, {useful} of {seen.world_size} ranks reach the critical batch; "
                f"with all ranks it is {max(scale / seen.world_size, 1.0):,.3g} samples each, and the learning rate has to follow."
            ),
            (
                "Use the other ranks for what scales still: a larger model, model parallelism, other seeds; or let the batch grow as "
                "the noise scale does."
            ),
        ]
        if self.alignment > _UNDERSHOOTS:
            advice.append(
                f"Successive steps still agree (cosine {self.alignment:.2f}): a larger learning rate uses a batch of this size "
                "better."
            )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=seen.step,
            since_step=self.since,
            confidence=0.9,
            score=excess,
            threshold=self.config.excess,
            reason=f"The batch of {seen.effective_batch:,.0f} samples is {over:,.2g} times the critical batch ({bound} samples, by "
            f"the gradient noise scale): a sample brings {100 / (1 + over):.2g} % of the progress that it brings in a small batch.",
            evidence={
                "gradient_noise_scale": seen.scale,
                "noise_scale_low": seen.low,
                "noise_scale_high": seen.high,
                "effective_batch": seen.effective_batch,
                "noise_batch": seen.noise_batch,
                "batch_over_critical": over,
                "data_parallel_efficiency": 1 / (1 + over),
                "useful_ranks": useful,
                "effective_ranks": seen.effective_ranks,
                "gradient_alignment": None if math.isnan(self.alignment) else self.alignment,
            },
            advice=tuple(advice),
        )


def _scale(seen: NoiseScaleObservation) -> float:
    """The critical batch: the estimate, or its upper bound where there is none."""
    return max(seen.scale if seen.scale is not None else seen.high, _LEAST_SCALE)


def _over(seen: NoiseScaleObservation) -> float:
    return seen.noise_batch / _scale(seen)
