"""Throughput per worker fell when workers were added."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import SIGMA
from stallwatch.detector.checks.typical_cpu_wait import TypicalCpuWait
from stallwatch.detector.checks.wording import seconds_text
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Severity, Verdict
from stallwatch.detector.core.windows import PARTS, StepWindowObservation

_MEDIAN_ERROR = 1.2533
"""Standard error of a median, in those of the mean."""
_WORLDS = 8
"""World sizes that are remembered, the latest ones."""


@dataclass(frozen=True, slots=True)
class ScalingEfficiencyLossConfig:
    """Settings of the scaling efficiency check."""

    skipped_windows: int = 2
    """Windows of ten steps at the start of an attempt: compiling, caches and clocks warm up."""
    least_windows: int = 4
    """Windows that say what a world size gives."""
    kept_windows: int = 30
    """The latest windows that its throughput is taken from."""
    gain_share: float = 0.5
    """A worker that was added brings less than this share of what one brought before: half of each new worker is lost."""
    share: float = 0.15
    """... and all workers have lost at least so much each: with few added, noise alone makes the gain look small."""
    excess_seconds: float = 0.005
    """... and steps take at least so much longer for their samples: less is the scheduler of a shared machine."""
    z: float = 4.0
    """... and by so many standard errors of the two medians."""
    least_seconds: float = 3.0
    """Time over which the new throughput must have been seen ..."""
    unknown_seconds: float = 10.0
    """... while no agent tells whether its rank waits for a CPU."""
    contended_share: float = 0.5
    """Where waiting for a CPU explains this part of the loss or more, machines are too small for their ranks: information."""

    def __post_init__(self) -> None:
        if not 2 <= self.least_windows <= self.kept_windows:
            raise ValueError("least_windows must be at least 2 and at most kept_windows")
        for name in ("gain_share", "share", "contended_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share between 0 and 1, not {getattr(self, name)}")
        if not self.z > 0 or min(self.excess_seconds, self.least_seconds, self.unknown_seconds) < 0:
            raise ValueError("z must be above 0, and times not negative")


@dataclass(slots=True)
class Throughput:
    """What the workers of one attempt do."""

    world_size: int
    attempt: int = 0
    since: int = 0
    """First step that counts."""
    levels: list[float] = field(default_factory=list)
    """Logarithms of the samples a second and worker, by window."""
    parts: list[NDArray[np.float64]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    samples: float = 0.0
    """Of a worker in a step."""
    cpu_wait: float = math.nan

    def rate(self) -> float:
        """Samples a second and worker."""
        return math.exp(float(np.median(self.levels)))

    def error(self) -> float:
        """Standard error of the logarithm of `rate`."""
        levels = np.array(self.levels)
        spread = SIGMA * float(np.median(np.abs(levels - np.median(levels))))
        return _MEDIAN_ERROR * max(spread, 0.01) / math.sqrt(levels.size)


@dataclass(slots=True)
class ScalingEfficiencyLoss:
    """Finds that the job was restarted with more workers and each of them does less: by how much, and in which phase.

    Compares samples a second and worker with those of the latest attempt that had fewer workers. Called when a worker that
    was added brings less than half of what one brought before. A smaller batch a rank counts: it is samples that are paid
    for.

    It needs both world sizes in one run, and cannot tell the workers' number from what else changed with the restart: other
    machines, another data loader, longer sequences. Speed-ups at fewer workers are not looked at.
    """

    kind: ClassVar[str] = "scaling_efficiency_loss"
    consumes: ClassVar[tuple[type, ...]] = (StepWindowObservation, LivenessObservation)

    config: ScalingEfficiencyLossConfig = field(default_factory=ScalingEfficiencyLossConfig)
    now: Throughput | None = None
    past: list[Throughput] = field(default_factory=list)
    """The latest attempt of each world size before, oldest first."""
    seen: int = 0
    """Windows of this attempt."""
    cpu_wait: TypicalCpuWait = field(default_factory=TypicalCpuWait)
    said: float = 0.0
    """Throughput a worker as a share of that before, as last said; 0 while not firing."""

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, LivenessObservation):
            self.cpu_wait.take(observation)
            return None
        if not isinstance(observation, StepWindowObservation):
            return None
        now = self.now
        if now is None or (now.attempt, now.world_size) != (observation.attempt, observation.world_size):
            now = self._begin(observation)
        self.seen += 1
        if self.seen <= self.config.skipped_windows:
            now.since = observation.steps[-1] + 1
            return None
        if not observation.typical_seconds > 0 or not observation.samples > 0:
            return None
        keep = self.config.kept_windows - 1
        now.levels = [*now.levels[-keep:], math.log(observation.samples / observation.typical_seconds)]
        now.parts = [*now.parts[-keep:], observation.parts]
        now.step_seconds = [*now.step_seconds[-keep:], observation.typical_seconds]
        now.samples, now.cpu_wait = observation.samples, self.cpu_wait.share
        return self._judge(now, observation.steps[-1])

    def _begin(self, window: StepWindowObservation) -> Throughput:
        old = self.now
        if old is not None and len(old.levels) >= self.config.least_windows:
            others = [each for each in self.past if each.world_size != old.world_size]
            self.past = [*others[1 - _WORLDS :], old]
        if old is None or old.attempt != window.attempt:
            self.cpu_wait.forget()
        self.seen = 0
        self.now = Throughput(window.world_size, window.attempt, window.steps[0])
        return self.now

    def _judge(self, now: Throughput, step: int) -> Verdict | None:
        config = self.config
        before = next((each for each in reversed(self.past) if each.world_size < now.world_size), None)
        if len(now.levels) < config.least_windows:
            return None
        if before is None:
            return self._clear(step, "fewer workers are at work") if self.said else None
        share = now.rate() / before.rate()
        added = now.world_size - before.world_size
        gain = (now.world_size * share - before.world_size) / added
        lost = -math.log(share) / math.hypot(now.error(), before.error())
        expected = float(np.median(before.step_seconds)) * now.samples / before.samples
        excess = float(np.median(now.step_seconds)) - expected
        poor = gain < config.gain_share and share < 1 - config.share
        if self.said:
            if not poor:
                return self._clear(
                    step, f"a worker does {100 * share:.3g} % of what one of {before.world_size} did"
                )
            if 0.8 < share / self.said < 1.25:
                return None
        else:
            watched = len(now.levels) * 10 * float(np.median(now.step_seconds))
            unknown = math.isnan(now.cpu_wait)
            long = watched >= (config.unknown_seconds if unknown else config.least_seconds)
            if not (poor and long and lost > config.z and excess >= config.excess_seconds):
                return None
        self.said = share
        return self._verdict(now, before, share, gain, step)

    def _clear(self, step: int, why: str) -> Verdict:
        self.said = 0.0
        return Verdict(
            kind=self.kind, firing=False, step=step, reason=f"Throughput by worker is no concern: {why}."
        )

    def _verdict(self, now: Throughput, before: Throughput, share: float, gain: float, step: int) -> Verdict:
        grown = np.median(now.parts, axis=0) - np.median(before.parts, axis=0)
        known = np.where(np.isfinite(grown), grown, 0.0)
        leading = int(known.argmax())
        longer = float(np.median(now.step_seconds)) - float(np.median(before.step_seconds))
        phase = PARTS[leading] if known[leading] > 0.3 * longer > 0 else ""
        waited = now.cpu_wait - (0.0 if math.isnan(before.cpu_wait) else before.cpu_wait)
        contended = waited >= self.config.contended_share * (1 - share)
        smaller = now.samples < 0.95 * before.samples
        where = f"; {phase} takes {seconds_text(float(known[leading]))} more of each step" if phase else ""
        if smaller:
            where += f"; each has {now.samples:,.3g} samples a step instead of {before.samples:,.3g}, and a step takes nearly as long"
        if contended:
            where += f"; ranks wait for a CPU {100 * waited:.2g} % of the time more"
        evidence: dict[str, EvidenceValue] = {
            "world_size_before": before.world_size,
            "world_size": now.world_size,
            "samples_per_second_per_worker_before": before.rate(),
            "samples_per_second_per_worker": now.rate(),
            "samples_per_second_before": before.rate() * before.world_size,
            "samples_per_second": now.rate() * now.world_size,
            "efficiency": share,
            "gain_of_added_worker": gain,
            "phase": phase,
            "cpu_wait_share": None if math.isnan(now.cpu_wait) else now.cpu_wait,
        }
        for name, value in zip(PARTS, grown.tolist(), strict=True):
            evidence[f"grown_{name}_seconds"] = None if math.isnan(value) else value
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=min(now.since, step),
            severity=Severity.INFO if contended else None,
            confidence=0.9,
            score=1 - gain,
            threshold=1 - self.config.gain_share,
            reason=f"With {now.world_size} workers instead of {before.world_size}, each does {now.rate():,.3g} samples a second "
            f"instead of {before.rate():,.3g} ({100 * share:.3g} %): all together {now.rate() * now.world_size:,.3g} instead of "
            f"{before.rate() * before.world_size:,.3g}{where}.",
            evidence=evidence,
            advice=_advice(phase, before, smaller=smaller, contended=contended),
        )


def _advice(phase: str, before: Throughput, *, smaller: bool, contended: bool) -> tuple[str, ...]:
    back = f"Unless it can be mended, {before.world_size} workers do the same for less."
    if contended:
        return ("Give every rank cores of its own: the machines have too few for their ranks.", back)
    if smaller:
        return (
            "Keep the samples a rank as they were, or accumulate: small batches leave the device waiting.",
            back,
        )
    first = {
        "input": "All ranks read more slowly: storage or the data server does not keep up with so many readers.",
        "communication": "The exchange of gradients grew with the ranks: look at which link they cross now, and overlap or compress "
        "it.",
        "waiting": "Ranks wait for the slowest among more of them: look at the machines that were added.",
        "compute": "Computing takes longer with more ranks: they share cores, memory bandwidth, power or cooling.",
        "optimizer": "The optimizer takes longer with more ranks: look at what runs between backward and the next forward.",
    }
    return (
        first.get(phase, "Compare what the added workers' machines have: cores, links, storage, clocks."),
        back,
    )
