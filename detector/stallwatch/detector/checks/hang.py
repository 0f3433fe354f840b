"""No step for far longer than usual."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.wording import ranks_text, seconds_text
from stallwatch.detector.core.inputs import Phase
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict

_EXEMPT = (Phase.STARTING, Phase.EVALUATION, Phase.CHECKPOINT, Phase.COMPILATION, Phase.FINISHED)
_BINS = 128
_SHORTEST = 1e-4
_FORGET = 4096
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>.+)')
_SHOWN_STACK = 600


@dataclass(frozen=True, slots=True)
class HangConfig:
    """Settings of the hang check."""

    floor_seconds: float = 30.0
    """Nothing shorter is a hang, however fast steps are."""
    ceiling_seconds: float = 1800.0
    """Anything longer is one, however slow steps are."""
    factor: float = 10.0
    """... times the 99th percentile of what steps of this run take."""
    first_step_seconds: float = 3600.0
    """Before the first step of an attempt is finished: loading, compiling and warming up take their time."""
    exempt_seconds: float = 7200.0
    """Evaluation, checkpoint, compilation and start may last so long."""
    silent_seconds: float = 15.0
    """A rank without a sign of life for longer is lost rather than hanging."""

    def __post_init__(self) -> None:
        if not 0 < self.floor_seconds <= self.ceiling_seconds:
            raise ValueError("floor_seconds must be above 0 and at most ceiling_seconds")
        if not self.factor >= 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}")
        for name in ("first_step_seconds", "exempt_seconds", "silent_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


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
            self.total *= 0.5

    def quantile(self, share: float) -> float:
        """Upper end of the bin that holds this quantile; 0 while nothing is known."""
        if not self.total:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), share * self.total))
        return float(_SHORTEST * 2 ** ((min(index, _BINS - 1) + 1) / 4))


@dataclass(slots=True)
class Hang:
    """Finds that no rank has finished a step for far longer than steps of this run take, and which rank holds them.

    The culprit is the rank that has issued the fewest collectives, for the others sit in one that it never entered; where
    that is unknown or equal, the rank that is anywhere but waiting while others wait for gradients; failing that, the one
    with the fewest steps. Waiting inside user code between steps and inside the step are judged by what is usual for
    each. Evaluation, checkpoints, compilation and the first step are not hangs.

    It needs heartbeats; it cannot name a culprit where all ranks wait in the same collective (that is the network or the
    library), and a rank whose process is gone is `rank_lost`, not a hang. Lowest sequence number as in PyTorch's flight
    recorder; rule from "Stragglers and comm stalls" in docs/research/science.md.
    """

    kind: ClassVar[str] = "hang"
    consumes: ClassVar[tuple[type, ...]] = (LivenessObservation, StepObservation)

    config: HangConfig = field(default_factory=HangConfig)
    attempt: int = 0
    steps: int = 0
    """Steps of this attempt seen."""
    busy: Durations = field(default_factory=Durations)
    """Steps without the time between them."""
    between: Durations = field(default_factory=Durations)
    """Time between steps: data and the user's own code."""
    firing: bool = False
    stuck_step: int = -1
    named: tuple[int, ...] = ()
    with_stack: bool = False
    said_seconds: float = 0.0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, StepObservation):
            self._begin(observation.attempt)
            self.steps += 1
            between = observation.input_seconds
            whole = observation.step_seconds
            longest = float(np.fmax.reduce(between))
            self.between.add(longest)
            self.busy.add(float(np.fmax.reduce(whole - np.where(between >= 0, between, 0.0))))
            return None
        if isinstance(observation, LivenessObservation):
            self._begin(observation.attempt)
            return self._look(observation)
        return None

    def _begin(self, attempt: int) -> None:
        if attempt != self.attempt:
            self.attempt, self.steps = attempt, 0
            self.firing, self.named, self.stuck_step = False, (), -1

    def _look(self, seen: LivenessObservation) -> Verdict | None:
        running = ~seen.finished
        if self.firing and (seen.step > self.stuck_step or not running.any()):
            return self._resolve(seen)
        alive = running & seen.heard & seen.connected & (seen.silent_seconds <= self.config.silent_seconds)
        if self._is_excused(seen, alive, running):
            return None
        stuck = float(seen.stuck_seconds[alive].min())
        culprits, how = _culprits(seen, alive)
        limit = self._limit(seen, culprits)
        ranks = tuple(seen.ranks[i] for i in np.flatnonzero(culprits))
        with_stack = any(rank in seen.stacks for rank in ranks)
        same = self.firing and (ranks, with_stack) == (self.named, self.with_stack)
        if stuck <= limit or (same and stuck < 2 * self.said_seconds):
            return None
        if not self.firing:
            self.firing, self.stuck_step = True, seen.step
        self.named, self.with_stack, self.said_seconds = ranks, with_stack, stuck
        return self._verdict(seen, culprits, how, stuck, limit)

    def _is_excused(
        self, seen: LivenessObservation, alive: NDArray[np.bool_], running: NDArray[np.bool_]
    ) -> bool:
        """Whether standing still is in order, or somebody else's to explain."""
        done = seen.total_steps and seen.step + 1 >= seen.total_steps
        if done or not alive.any() or not self._all_accounted_for(seen, alive, running):
            return True
        exempt = np.isin(seen.phase, _EXEMPT) & (seen.phase_seconds <= self.config.exempt_seconds)
        if (exempt & alive).any():
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

    def _limit(self, seen: LivenessObservation, culprits: NDArray[np.bool_]) -> float:
        if not self.steps:
            return self.config.first_step_seconds
        between = bool((seen.phase[culprits] == Phase.INPUT).all()) if culprits.any() else False
        usual = (
            self.between.quantile(0.99) + self.busy.quantile(0.99) if between else self.busy.quantile(0.99)
        )
        return min(max(self.config.factor * usual, self.config.floor_seconds), self.config.ceiling_seconds)

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

    def _verdict(
        self, seen: LivenessObservation, culprits: NDArray[np.bool_], how: str, stuck: float, limit: float
    ) -> Verdict:
        index = np.flatnonzero(culprits)
        first = int(index[0])
        rank = seen.ranks[first]
        phase = "finished" if seen.finished[first] else Phase(int(seen.phase[first])).name.lower()
        everyone = index.size == len(seen.ranks)
        stack = seen.stacks.get(rank, "")
        place = innermost(stack)
        head = f"No rank has finished a step for {seconds_text(stuck)} after step {seen.step:,} (a hang from {seconds_text(limit)})"
        if how == "none":
            tail = f"all ranks wait in phase {phase}, in the same place"
        elif how == "collective":
            tail = (
                f"{ranks_text(self.named)} never issued collective {int(seen.collectives.max())}, which the others wait in"
                f"; it is in phase {phase}"
            )
        elif how == "finished":
            tail = f"{ranks_text(self.named)} ended while the others wait for its gradients"
        elif everyone:
            tail = f"all ranks are in phase {phase}"
        else:
            tail = f"{ranks_text(self.named)} sits in phase {phase} while the others wait"
        evidence: dict[str, EvidenceValue] = {
            "stuck_seconds": stuck,
            "limit_seconds": limit,
            "usual_step_seconds": self.busy.quantile(0.99),
            "phase": phase,
            "decided_by": how,
            "phases": tuple(Phase(int(value)).name.lower() for value in seen.phase[:64]),
            "collectives": tuple(int(value) for value in seen.collectives[:64]),
        }
        if stack:
            evidence["stack"] = stack[-_SHOWN_STACK:]
        host = seen.hosts.get(rank, "")
        advice = [
            f"Look at rank {rank}{f' on {host}' if host else ''}"
            + (
                f", which is in {place}."
                if place
                else f", in phase {phase}: take its stack with `py-spy dump`."
            ),
        ]
        if how == "collective":
            advice.append(
                "Look for a branch that only some ranks take, and for ranks that get fewer batches than others."
            )
        elif phase == "input":
            advice.append("Look for a data loader worker that died or waits for storage.")
        elif how == "none":
            advice.append(
                "Nobody lags: suspect the network or the communication library rather than the script."
            )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=max(seen.step, 0),
            since_step=seen.step + 1,
            confidence=0.95,
            score=stuck,
            threshold=limit,
            reason=f"{head}: {tail}{f', at {place}' if place else ''}.",
            evidence=evidence,
            advice=tuple(advice),
            ranks=self.named,
        )


def _culprits(seen: LivenessObservation, alive: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str]:
    """The ranks that hold the others, and how that is known."""
    considered = alive | seen.finished
    waiting = (seen.phase == Phase.SYNC) & ~seen.finished
    if seen.finished.any() and waiting.any():
        return seen.finished.copy(), "finished"
    known = alive & (seen.collectives >= 0)
    counts = seen.collectives[known]
    if counts.size == np.count_nonzero(alive) and counts.size > 1 and counts.min() < counts.max():
        return known & (seen.collectives == counts.min()), "collective"
    for phases in ((Phase.SYNC,), (Phase.SYNC, Phase.BACKWARD)):
        waits = alive & np.isin(seen.phase, phases)
        others = alive & ~waits
        if waits.any() and others.any():
            return others, "phase"
    steps = seen.last_step[considered & ~seen.finished]
    if steps.min() < steps.max():
        return alive & (seen.last_step == steps.min()), "step"
    if (waiting & alive).any():
        return alive.copy(), "none"
    return alive.copy(), "all"


def innermost(stack: str) -> str:
    r"""Where a stack is: its innermost frame, `function (file:line)`; innermost frames come last.

    >>> innermost('  File "train.py", line 3, in <module>\n  File "data/load.py", line 7, in fetch\n    get()')
    'fetch (load.py:7)'
    """
    frames = list(_FRAME.finditer(stack))
    if frames:
        frame = frames[-1]
        return f"{frame['name'].strip()} ({frame['file'].rsplit('/', 1)[-1]}:{frame['line']})"
    lines = [line.strip() for line in stack.splitlines() if line.strip()]
    return lines[-1][:120] if lines else ""
