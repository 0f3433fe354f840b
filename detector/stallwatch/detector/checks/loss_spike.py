"""The loss made one excursion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from stallwatch.detector.core.learning import LossPoint
from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.stats.robust import median_and_sigma


@dataclass(frozen=True, slots=True)
class LossSpikeConfig:
    """Settings of the spike check."""

    window: int = 128
    """Calm values that say what is normal."""
    minimum_values: int = 32
    """Calm values before anything is said."""
    spike_sigmas: float = 12.0
    """Robust standard deviations above normal at which a value is a spike."""
    extreme_multiple: float = 2.0
    """... and this many times the largest excursion within the window: heavy-tailed noise sets its own measure."""
    progress_share: float = 0.2
    """... and this share of the progress since the start: a smaller excursion costs nothing."""
    recovered_sigmas: float = 4.0
    """Within so many standard deviations of normal the loss has recovered."""
    recovered_values: int = 4
    """Values in a row that must have recovered."""
    give_up: int = 256
    """Values after which an excursion is a level of its own: the loss model judges it from there."""

    def __post_init__(self) -> None:
        if not 8 <= self.minimum_values <= self.window:
            raise ValueError(f"minimum_values must lie in [8, window], not {self.minimum_values}")
        if not 0 < self.recovered_sigmas < self.spike_sigmas:
            raise ValueError(f"recovered_sigmas must be below spike_sigmas, not {self.recovered_sigmas}")
        if self.recovered_values < 1 or self.give_up < self.recovered_values:
            raise ValueError("recovered_values must be at least 1 and at most give_up")
        if self.extreme_multiple < 1 or self.progress_share < 0:
            raise ValueError("extreme_multiple must be at least 1 and progress_share not negative")


@dataclass(slots=True)
class LossSpike:
    """Finds one excursion of the loss, how high it went, and whether and how fast it recovered.

    A level that stays up is a `divergence`; one that is not finite is `non_finite`.
    """

    kind: ClassVar[str] = "loss_spike"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, LossPoint)

    config: LossSpikeConfig = field(default_factory=LossSpikeConfig)
    calm: list[float] = field(default_factory=list)
    highest: float = -math.inf
    """The highest of the latest calm values."""
    highest_age: int = 0
    """Calm values since then; from `window` on it is out of date."""
    first: float = math.nan
    """Median of the first calm values."""
    began: int = -1
    """Step at which the present excursion began; -1 when there is none."""
    peak: float = 0.0
    peak_step: int = 0
    normal: float = 0.0
    """Loss from before the excursion."""
    sigma: float = 0.0
    recovered: int = 0
    length: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one value of the loss."""
        if isinstance(observation, StepObservation):
            return self._take(observation.step, observation.mean_loss())
        if isinstance(observation, LossPoint):
            return self._take(observation.step, observation.loss)
        return None

    def _take(self, step: int, loss: float) -> Verdict | None:
        if not math.isfinite(loss):
            return None
        if self.began >= 0:
            return self._follow(step, loss)
        if len(self.calm) >= self.config.minimum_values and self._spikes(loss):
            self.began = self.peak_step = step
            self.peak, self.recovered, self.length = loss, 0, 1
            return self._verdict(step, firing=True)
        self.calm.append(loss)
        self.highest_age += 1
        if loss >= self.highest:
            self.highest, self.highest_age = loss, 0
        if len(self.calm) == self.config.minimum_values and math.isnan(self.first):
            self.first = float(np.median(self.calm[:8]))
        if len(self.calm) >= 2 * self.config.window:
            del self.calm[: self.config.window]
        return None

    def _spikes(self, loss: float) -> bool:
        """Whether this value stands out; cheap for the many that do not."""
        # A spike exceeds every value of the window, so medians are taken only where one does.
        if loss <= self.calm[-1]:
            return False
        if self.highest_age >= self.config.window:
            window = self.calm[-self.config.window :]
            self.highest = max(window)
            self.highest_age = window[::-1].index(self.highest)
        if loss <= self.highest:
            return False
        recent = np.array(self.calm[-self.config.window :])
        self.normal, self.sigma = median_and_sigma(recent)
        excess = loss - self.normal
        if self.sigma <= 0 or excess <= self.config.spike_sigmas * self.sigma:
            return False
        extreme = float(np.max(np.abs(recent - self.normal)))
        progress = abs(self.first - self.normal)
        return excess > max(self.config.extreme_multiple * extreme, self.config.progress_share * progress)

    def _follow(self, step: int, loss: float) -> Verdict | None:
        self.length += 1
        if loss > self.peak:
            self.peak, self.peak_step = loss, step
        within = loss - self.normal <= self.config.recovered_sigmas * self.sigma
        self.recovered = self.recovered + 1 if within else 0
        if self.recovered >= self.config.recovered_values:
            verdict = self._verdict(step, firing=False)
            self.began = -1
            return verdict
        if self.length >= self.config.give_up:
            verdict = self._verdict(step, firing=False)
            self.began = -1
            self.calm, self.highest, self.highest_age = [loss], loss, 0
            return verdict
        return None

    def _verdict(self, step: int, *, firing: bool) -> Verdict:
        rise = f"The loss jumped from {self.normal:.4g} to {self.peak:.4g} at step {self.peak_step:,}"
        if firing:
            reason = f"{rise}, {(self.peak - self.normal) / self.sigma:.0f} standard deviations of its noise."
        elif self.recovered >= self.config.recovered_values:
            reason = f"{rise} and recovered within {max(step - self.began, 1):,} steps."
        else:
            reason = f"{rise} and has not come back for {step - self.began:,} steps."
        return Verdict(
            kind=self.kind,
            firing=firing,
            step=step,
            since_step=self.began,
            score=(self.peak - self.normal) / self.sigma,
            threshold=self.config.spike_sigmas,
            confidence=0.95,
            reason=reason,
            evidence={
                "peak": self.peak,
                "peak_step": self.peak_step,
                "normal": self.normal,
                "noise": self.sigma,
                "recovered": self.recovered >= self.config.recovered_values,
                "steps": step - self.began,
            },
            advice=(
                f"Look at the batches around step {self.began:,}, and at the gradient norm there.",
                "Clip gradients by norm; if spikes repeat, lower the learning rate or skip such batches.",
            )
            if firing
            else (),
        )
