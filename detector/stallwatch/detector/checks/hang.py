"""No step for far longer than usual."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.hang_limits import EXEMPT, Usual
from stallwatch.detector.checks.hang_words import find_culprits, verdict
from stallwatch.detector.checks.wording import seconds_text
from stallwatch.detector.core.inputs import Phase
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class HangConfig:
    """Settings of the hang check."""

    floor_seconds: float = 30.0
    """Nothing shorter is a hang, however fast steps are."""
    ceiling_seconds: float = 1800.0
    """Anything longer is one, however slow steps are."""
    factor: float = 10.0
    """... times the 99th percentile of what a step of this run takes, and of what the phase in question takes ..."""
    longest_factor: float = 3.0
    """... and this times the longest that it has taken."""
    first_step_seconds: float = 3600.0
    """Before the first step of an attempt is finished: loading, compiling and warming up take their time."""
    exempt_seconds: float = 7200.0
    """Evaluation, checkpoint, compilation and start may last so long ..."""
    pause_floor_seconds: float = 900.0
    """... or, once two of a sort have been seen, `factor` times the longest of them, but at least so long."""
    silent_seconds: float = 15.0
    """A rank without a sign of life for longer is lost rather than hanging."""

    def __post_init__(self) -> None:
        if not 0 < self.floor_seconds <= self.ceiling_seconds:
            raise ValueError("floor_seconds must be above 0 and at most ceiling_seconds")
        for name in ("factor", "longest_factor"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("first_step_seconds", "exempt_seconds", "pause_floor_seconds", "silent_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(slots=True)
class Hang:
    """Finds that no rank has finished a step for far longer than steps of this run take, and which rank holds them.

    The culprit is the rank that has issued the fewest collectives, for the others sit in one that it never entered; where
    that is unknown or equal, the rank that is anywhere but waiting while others wait for gradients; failing that, the one
    with the fewest steps. Too long is ten times what a step takes in this run, ten times what the phase in question takes and
    three times the longest it has taken, with a floor. Evaluation, checkpoints, compilation and the first step are not hangs, as long as they do not
    take ten times as long as those before. Where agents have sent what torch's flight recorder holds, the collective that
    the others wait in is named with its operation, size and sequence number. A restart forgets what processes were doing.

    It needs heartbeats; it cannot name a culprit where all ranks wait in the same collective (that is the network or the
    library), and a rank whose process is gone is `rank_lost`, not a hang. Lowest sequence number as in PyTorch's flight
    recorder.
    """

    kind: ClassVar[str] = "hang"
    consumes: ClassVar[tuple[type, ...]] = (LivenessObservation, StepObservation)

    config: HangConfig = field(default_factory=HangConfig)
    attempt: int = 0
    steps: int = 0
    """Steps of this attempt seen."""
    usual: Usual = field(default_factory=Usual)
    firing: bool = False
    stuck_step: int = -1
    named: tuple[int, ...] = ()
    with_detail: tuple[bool, bool] = (False, False)
    """Whether a stack and a pending collective were part of what was said."""
    said_seconds: float = 0.0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, StepObservation):
            self._begin(observation.attempt)
            self.steps += 1
            self.usual.learn_step(observation, self.steps)
            return None
        if isinstance(observation, LivenessObservation):
            self._begin(observation.attempt)
            return self._look(observation)
        return None

    def _begin(self, attempt: int) -> None:
        if attempt != self.attempt:
            self.attempt, self.steps = attempt, 0
            self.firing, self.named, self.stuck_step = False, (), -1
            self.usual.forget_pausing()

    def _look(self, seen: LivenessObservation) -> Verdict | None:
        self.usual.learn_pauses(seen)
        running = ~seen.finished
        if self.firing and (seen.step > self.stuck_step or not running.any()):
            return self._resolve(seen)
        alive = running & seen.heard & seen.connected & (seen.silent_seconds <= self.config.silent_seconds)
        if self._is_excused(seen, alive, running):
            return None
        culprits, how = find_culprits(seen, alive)
        stuck = float(seen.stuck_seconds[alive].min())
        limit = self._limit(seen, culprits)
        ranks = tuple(seen.ranks[i] for i in np.flatnonzero(culprits))
        detail = (
            any(rank in seen.stacks for rank in ranks),
            any(rank in seen.flight_records for rank in seen.ranks),
        )
        same = self.firing and (ranks, detail) == (self.named, self.with_detail)
        if stuck <= limit or (same and stuck < 2 * self.said_seconds):
            return None
        if not self.firing:
            self.firing, self.stuck_step = True, seen.step
        self.named, self.with_detail, self.said_seconds = ranks, detail, stuck
        return verdict(seen, culprits, how, stuck, limit, self.usual.steps.quantile(0.99))

    def _is_excused(
        self, seen: LivenessObservation, alive: NDArray[np.bool_], running: NDArray[np.bool_]
    ) -> bool:
        """Whether standing still is in order, or somebody else's to explain."""
        done = seen.total_steps and seen.step + 1 >= seen.total_steps
        if done or not alive.any() or not self._all_accounted_for(seen, alive, running):
            return True
        if any(
            seen.phase_seconds[index] <= self._exempt_seconds(int(seen.phase[index]))
            for index in np.flatnonzero(alive & np.isin(seen.phase, EXEMPT)).tolist()
        ):
            return True
        # Where others are done already, the last ones clean up, save, or upload, unless they wait for the others.
        waits = (seen.phase == Phase.SYNC) | (seen.phase == Phase.BACKWARD)
        return bool(seen.finished.any()) and not waits[alive].any()

    def _all_accounted_for(
        self, seen: LivenessObservation, alive: NDArray[np.bool_], running: NDArray[np.bool_]
    ) -> bool:
        """Whether the silence of a rank does not explain the standstill: one that fell silent long before does not."""
        silent = running & ~alive
        return bool(np.all(seen.last_step[silent] < seen.step - 2))

    def _exempt_seconds(self, phase: int) -> float:
        """How long a pause of this sort may last."""
        longest = self.usual.longest_pause(phase)
        if longest is None:
            return self.config.exempt_seconds
        usual = max(self.config.factor * longest, self.config.pause_floor_seconds)
        return min(usual, self.config.exempt_seconds)

    def _limit(self, seen: LivenessObservation, culprits: NDArray[np.bool_]) -> float:
        """How long steps may take to move again, given the phases that the culprits are in."""
        config, usual = self.config, self.usual
        if not self.steps:
            return config.first_step_seconds
        limit = config.factor * usual.steps.quantile(0.99)
        for phase in np.unique(seen.phase[culprits & ~seen.finished]).tolist():
            known = usual.phases.get(int(phase))
            if known is not None:
                longest = config.longest_factor * known.quantile(1.0)
                limit = max(limit, config.factor * known.quantile(0.99), longest)
        return min(max(limit, config.floor_seconds), config.ceiling_seconds)

    def _resolve(self, seen: LivenessObservation) -> Verdict:
        self.firing = False
        return Verdict(
            kind=self.kind,
            firing=False,
            step=max(seen.step, 0),
            since_step=self.stuck_step + 1,
            reason=f"Steps move again, after {seconds_text(self.said_seconds)} at least without one.",
            ranks=self.named,
        )
