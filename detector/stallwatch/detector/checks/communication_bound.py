"""Much of each step waits for gradients to be exchanged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.checks.typical_cpu_wait import TypicalCpuWait
from stallwatch.detector.checks.wording import seconds_text
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import RunDeclaration
from stallwatch.detector.core.verdicts import Severity, Verdict
from stallwatch.detector.core.windows import PARTS, StepWindowObservation

_COMMUNICATION = PARTS.index("communication")
_START_WINDOWS = 5
"""Windows that say what the share was in the beginning."""
_GROWN = 1.5
"""The share is said to have grown when it is so many times what it was in the beginning, and anew when it changes by it."""
_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class CommunicationBoundConfig:
    """Settings of the communication check."""

    windows: int = 10
    """Windows of ten steps in a row in which the wait must be long."""
    skipped_windows: int = 2
    """Windows at the start of an attempt that are not judged: buckets are rebuilt, connections opened."""
    share: float = 0.3
    """Share of the step that even the rank which waits least waits: what no wait at all would save."""
    cpu_seconds: float = 0.01
    """... and at least so long where ranks train on CPUs: a wait there holds time slices of the scheduler, of several
    milliseconds each, in which another rank of the same machine runs."""
    device_seconds: float = 0.001
    """... and where they train on accelerators: launches and Python take up to this."""
    least_seconds: float = 3.0
    """The windows must take so long together ..."""
    unknown_seconds: float = 10.0
    """... and so long on CPUs, while no agent tells whether its rank waits for a CPU."""
    contended_share: float = 0.5
    """Where ranks wait for a CPU by this part of that share or more, it is the machine that is too small: information."""
    crowded_share: float = 0.25
    """... and likewise where they wait for a CPU this part of the time in which they do not wait for gradients: only training
    threads tell, and the threads that exchange gradients wait as often when they are ready."""
    resolve_share: float = 0.8
    """The finding resolves when the share is below this part of the threshold ..."""
    resolve_windows: int = 6
    """... for so many windows in a row."""

    def __post_init__(self) -> None:
        if self.windows < 1 or self.resolve_windows < 1:
            raise ValueError("windows and resolve_windows must be at least 1")
        for name in ("share", "resolve_share", "contended_share", "crowded_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share between 0 and 1, not {getattr(self, name)}")
        if min(self.cpu_seconds, self.device_seconds, self.least_seconds, self.unknown_seconds) < 0:
            raise ValueError("times must not be negative")


@dataclass(slots=True)
class CommunicationBound:
    """Finds that the exchange of gradients takes much of every step, how much, and whether it has grown.

    Judged by the wait of the rank that waits least, step by step: what others wait beyond it is waiting for a slow rank. The
    wait is what is exposed, from the last gradient being ready to the end of the backward; what overlaps with the backward
    costs nothing and is not seen.

    It cannot tell a slow network from a large gradient or many small collectives. On CPUs the wait also holds the reduction's
    own arithmetic. Nothing is said where waits are not measured: sharded models, accelerators without timers.
    """

    kind: ClassVar[str] = "communication_bound"
    consumes: ClassVar[tuple[type, ...]] = (StepWindowObservation, RunDeclaration, LivenessObservation)

    config: CommunicationBoundConfig = field(default_factory=CommunicationBoundConfig)
    on_cpu: bool = True
    attempt: int = -1
    world_size: int = 0
    seen: int = 0
    """Windows of the attempt."""
    start: list[float] = field(default_factory=list)
    """Shares of the first windows."""
    streak: int = 0
    streak_seconds: float = 0.0
    since: int = 0
    mean: float = 0.0
    """Running mean of the share in the streak."""
    wait: float = 0.0
    """Likewise of the wait, seconds."""
    quiet: int = 0
    cpu_wait: TypicalCpuWait = field(default_factory=TypicalCpuWait)
    said: float = 0.0
    """Share as last said; 0 while not firing."""

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, LivenessObservation):
            self.cpu_wait.take(observation)
        elif isinstance(observation, RunDeclaration):
            self.on_cpu = observation.device in ("", "cpu")
        elif isinstance(observation, StepWindowObservation):
            if (observation.attempt, observation.world_size) != (self.attempt, self.world_size):
                self._reset(observation)
            self.seen += 1
            if observation.world_size > 1 and self.seen > self.config.skipped_windows:
                return self._judge(observation)
        return None

    def _reset(self, window: StepWindowObservation) -> None:
        if window.attempt != self.attempt:
            self.cpu_wait.forget()
        self.attempt, self.world_size = window.attempt, window.world_size
        self.seen = self.streak = self.quiet = 0
        self.start = []

    def _judge(self, window: StepWindowObservation) -> Verdict | None:
        config = self.config
        wait, whole = float(window.parts[_COMMUNICATION]), window.typical_seconds
        if not math.isfinite(wait) or not whole > 0:
            return None
        share = wait / whole
        if len(self.start) < _START_WINDOWS:
            self.start = [*self.start, share]
        long = wait >= (config.cpu_seconds if self.on_cpu else config.device_seconds)
        if share >= config.share and long:
            if not self.streak:
                self.since, self.streak_seconds = window.steps[0], 0.0
                self.mean, self.wait = share, wait
            self.streak += 1
            self.streak_seconds += whole * len(window.steps)
            self.mean += _WEIGHT * (share - self.mean)
            self.wait += _WEIGHT * (wait - self.wait)
            self.quiet = 0
        else:
            self.streak = 0
            self.quiet += share < config.resolve_share * config.share or not long
        return self._conclude(window.steps[-1], share, whole)

    def _conclude(self, step: int, share: float, whole: float) -> Verdict | None:
        config = self.config
        if self.said:
            if self.quiet >= config.resolve_windows:
                self.said, self.quiet = 0.0, 0
                return Verdict(
                    kind=self.kind,
                    firing=False,
                    step=step,
                    reason=f"Ranks wait for gradients {100 * share:.2g} % of a step: less than {100 * config.share:.2g} %.",
                )
            if self.streak < config.windows or 1 / _GROWN < self.mean / self.said < _GROWN:
                return None
        else:
            unknown = self.on_cpu and math.isnan(self.cpu_wait.share)
            needed = config.unknown_seconds if unknown else config.least_seconds
            if self.streak < config.windows or self.streak_seconds < needed:
                return None
        self.said = self.mean
        return self._verdict(step, whole)

    def _verdict(self, step: int, whole: float) -> Verdict:
        start = sum(self.start) / len(self.start)
        grown = self.mean > _GROWN * start
        config, waits = self.config, self.cpu_wait.share
        contended = waits >= min(config.contended_share * self.mean, config.crowded_share * (1 - self.mean))
        trend = f", up from {100 * start:.2g} % at the start" if grown else ""
        machine = (
            f"; ranks wait for a CPU {100 * self.cpu_wait.share:.2g} % of the time, which alone makes exchanges slow"
            if contended
            else ""
        )
        advice = (
            (
                "Give every rank a core of its own: the exchange waits for ranks that are ready and do not run.",
            )
            if contended
            else (
                (
                    "Exchange less or less often: bf16 or fp16 gradients (a communication hook), accumulation under no_sync, a larger "
                    "batch a rank; overlap more: smaller or larger buckets (bucket_cap_mb), static_graph, gradient_as_bucket_view."
                ),
                "Look at the network: interface and transport in use, other traffic"
                + (", and what changed on it." if grown else ", and how ranks are placed on nodes."),
            )
        )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=5.0,
            severity=Severity.INFO if contended else None,
            confidence=0.9,
            score=self.mean,
            threshold=self.config.share,
            reason=f"Every rank waits for gradients {seconds_text(self.wait)} of each step of {seconds_text(whole)} "
            f"({100 * self.mean:.2g} %) since step {self.since:,}{trend}{machine}.",
            evidence={
                "exposed_seconds": self.wait,
                "exposed_share": self.mean,
                "exposed_share_at_start": start,
                "step_seconds": whole,
                "cpu_wait_share": None if math.isnan(self.cpu_wait.share) else self.cpu_wait.share,
            },
            advice=(
                *advice,
                f"Steps would be up to {100 * self.mean:.2g} % shorter if no exchange were exposed.",
            ),
        )
