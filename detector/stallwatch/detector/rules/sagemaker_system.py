"""SageMaker Debugger's rules about time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.rules.contract import RuleHit


@dataclass(slots=True)
class StalledTrainingRule:
    """Nothing new for `threshold` seconds."""

    name: ClassVar[str] = "StalledTrainingRule"
    consumes: ClassVar[tuple[type, ...]] = (LivenessObservation,)

    threshold: float = 1800.0
    said: bool = False

    def update(self, observation: object) -> RuleHit | None:
        """Take one tick."""
        if not isinstance(observation, LivenessObservation) or not observation.stuck_seconds.size:
            return None
        running = observation.stuck_seconds[~observation.finished]
        stalled = bool(running.size) and float(running.min()) > self.threshold
        news, self.said = stalled and not self.said, stalled
        return RuleHit(max(observation.step, 0), f"no step for {self.threshold:g} s") if news else None


@dataclass(slots=True)
class StepOutlier:
    """More than `n_outliers` steps took longer than `stddev` standard deviations above the mean."""

    name: ClassVar[str] = "StepOutlier"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation,)

    stddev: float = 5.0
    n_outliers: int = 10
    count: int = 0
    mean: float = 0.0
    square: float = 0.0
    outliers: int = 0

    def update(self, observation: object) -> RuleHit | None:
        """Take one step."""
        if not isinstance(observation, StepObservation) or not observation.step_seconds.size:
            return None
        seconds = float(observation.step_seconds.max())
        if not math.isfinite(seconds):
            return None
        deviation = math.sqrt(self.square / self.count) if self.count > 1 else math.inf
        out = self.count > 10 and seconds > self.mean + self.stddev * deviation
        self.count += 1
        delta = seconds - self.mean
        self.mean += delta / self.count
        self.square += delta * (seconds - self.mean)
        if not out:
            return None
        self.outliers += 1
        if self.outliers <= self.n_outliers:
            return None
        return RuleHit(observation.step, f"{self.outliers} steps beyond {self.stddev:g} standard deviations")
