"""What is usual in this run: how long each phase of a step takes, and pauses for evaluation or a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import Phase
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import StepObservation

EXEMPT = (Phase.STARTING, Phase.EVALUATION, Phase.CHECKPOINT, Phase.COMPILATION, Phase.FINISHED)
PAUSES = (Phase.EVALUATION, Phase.CHECKPOINT, Phase.COMPILATION)
_WARM_UP_STEPS = 2
_ENOUGH_PAUSES = 2
_BINS = 128
_SHORTEST = 1e-4
_FORGET = 4096


@dataclass(slots=True)
class Durations:
    """What is usual: a histogram of durations in quarter octaves that slowly forgets."""

    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Take one duration."""
        if not seconds > 0:
            return
        self.counts[min(max(int(4 * math.log2(seconds / _SHORTEST)), 0), _BINS - 1)] += 1
        self.total += 1
        if self.total > _FORGET:
            self.counts *= 0.5
            self.counts[self.counts < 0.3] = 0.0
            self.total = float(self.counts.sum())

    def quantile(self, share: float) -> float:
        """Upper end of the bin that holds this quantile; 0 while nothing is known."""
        if not self.total:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), min(share * self.total, self.total - 1e-9)))
        return float(_SHORTEST * 2 ** ((min(index, _BINS - 1) + 1) / 4))


@dataclass(slots=True)
class Usual:
    """Learnt from the steps and heartbeats of the run; a restart changes none of it."""

    phases: dict[int, Durations] = field(default_factory=dict)
    """By phase of the step: of each step, the longest that a rank spent in it."""
    steps: Durations = field(default_factory=Durations)
    """Whole steps without the time between them."""
    pauses: dict[int, Durations] = field(default_factory=dict)
    """By phase: how long evaluations and the like have taken."""
    pausing: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Ranks that are in such a phase now: which one, and for how long."""

    def learn_step(self, step: StepObservation, number: int) -> None:
        """A step; `number` counts those of the attempt. The first ones compile and allocate."""
        if number <= _WARM_UP_STEPS:
            return
        between = step.input_seconds
        self.steps.add(float(np.fmax.reduce(step.step_seconds - np.where(between >= 0, between, 0.0))))
        for phase, seconds in (
            (Phase.INPUT, between),
            (Phase.FORWARD, step.forward_seconds),
            (Phase.BACKWARD, step.backward_seconds),
            (Phase.SYNC, step.sync_seconds),
            (Phase.OPTIMIZER, step.optimizer_seconds),
        ):
            self.phases.setdefault(int(phase), Durations()).add(float(np.fmax.reduce(seconds)))

    def learn_pauses(self, seen: LivenessObservation) -> None:
        """A tick: a pause that has ended lasted as long as it was last seen to."""
        pausing = np.isin(seen.phase, PAUSES) & seen.heard & ~seen.finished
        for rank in [rank for rank in self.pausing if rank not in seen.ranks]:
            del self.pausing[rank]
        if not self.pausing and not pausing.any():
            return
        for index, rank in enumerate(seen.ranks):
            before = self.pausing.get(rank)
            now = (int(seen.phase[index]), float(seen.phase_seconds[index])) if pausing[index] else None
            if before is not None and (now is None or now[0] != before[0] or now[1] < before[1]):
                self.pauses.setdefault(before[0], Durations()).add(before[1])
                del self.pausing[rank]
            if now is not None:
                self.pausing[rank] = now

    def forget_pausing(self) -> None:
        """The processes are gone; what they were in the middle of never ended."""
        self.pausing = {}

    def longest_pause(self, phase: int) -> float | None:
        """The longest pause of a sort; None while too few were seen."""
        known = self.pauses.get(phase)
        return known.quantile(1.0) if known is not None and known.total >= _ENOUGH_PAUSES else None
