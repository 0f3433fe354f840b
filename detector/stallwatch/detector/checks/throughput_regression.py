"""Steps got slower, on all ranks, and stay so."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import SIGMA, onset
from stallwatch.detector.checks.spells import Spells
from stallwatch.detector.checks.wording import seconds_text
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import EventObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Severity, Verdict
from stallwatch.detector.core.windows import PARTS, WINDOW_STEPS, StepWindowObservation

_WAITING = len(PARTS) - 1
_EVENT_STEPS = 20
_CPU_WEIGHT = 0.2
_EXPLAINED = 0.5
"""Share of the growth that is waiting for a CPU from which that is the reason ..."""
_HINTED = 0.1
"""... and below which it has nothing to do with it."""


@dataclass(frozen=True, slots=True)
class ThroughputRegressionConfig:
    """Settings of the check for slower steps."""

    skipped_windows: int = 2
    """Windows of ten steps at the start of an attempt: compiling, caches and clocks warm up."""
    least_reference: int = 8
    """Windows that must be known before any is judged."""
    reference_windows: int = 60
    """The latest windows that the usual length is taken from."""
    recent_windows: int = 5
    """Windows that are compared with these, by their median."""
    share: float = 0.15
    """Steps must be this much longer, at least: less is not worth a look at a running job."""
    noise: float = 4.0
    """... and longer by so many standard deviations of single windows of this run, which follow one another slowly."""
    windows: int = 10
    """Windows that it must have lasted ..."""
    settle_seconds: float = 10.0
    """... and seconds, where ranks are known not to wait for a CPU any more than before ..."""
    wander_share: float = 0.3
    """... or less, where steps have grown by more than machines wander by: with the square of the ratio ..."""
    unknown_seconds: float = 60.0
    """... where nothing is known of that, or that explains a part of it ..."""
    contended_seconds: float = 120.0
    """... and where that explains it: other processes come and go."""
    spell_factor: float = 2.0
    """It must outlast those of its size that went away by this factor."""

    def __post_init__(self) -> None:
        for name in ("least_reference", "recent_windows", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.reference_windows < self.least_reference:
            raise ValueError("reference_windows must be at least least_reference")
        if not (self.share > 0 and self.wander_share > 0 and self.noise > 0 and self.spell_factor >= 1):
            raise ValueError("share, wander_share and noise must be above 0, and spell_factor at least 1")
        if not 0 < self.settle_seconds <= self.unknown_seconds <= self.contended_seconds:
            raise ValueError("settle_seconds, unknown_seconds and contended_seconds must rise, from above 0")


@dataclass(slots=True)
class Excursion:
    """Steps that are longer than usual, at present."""

    since: int
    error: float
    """Of `since`, steps."""
    seconds: float = 0.0
    windows: int = 0
    quiet: int = 0


@dataclass(slots=True)
class ThroughputRegression:
    """Finds the step from which on steps take longer on all ranks, by how much, and which part of them grew.

    Medians over ten steps are compared with those of up to 600 steps before. An excursion counts when it is large against
    their spread and against 15 %, lasts (longer, where ranks wait for a CPU more than before, or where that is not known),
    and outlasts twice over those of its size that this run has seen go away: the length of a step wanders on a shared
    machine. More samples or micro-batches a step, another world and a restart begin anew. Waiting for one rank is a straggler:
    it shows in the wait of all others, and not in that of the rank which waits least.

    It cannot see that sequences got longer (the samples are as many): it says so only when an event was logged there, and
    then as information. Slow drifts become the usual.
    """

    kind: ClassVar[str] = "throughput_regression"
    consumes: ClassVar[tuple[type, ...]] = (
        StepWindowObservation,
        EventObservation,
        LivenessObservation,
    )

    config: ThroughputRegressionConfig = field(default_factory=ThroughputRegressionConfig)
    attempt: int = -1
    world_size: int = 0
    skipped: int = 0
    work: tuple[float, float] = (math.nan, math.nan)
    levels: list[float] = field(default_factory=list)
    """Logarithms of the step's length in the usual windows."""
    parts: list[NDArray[np.float64]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    recent_parts: list[NDArray[np.float64]] = field(default_factory=list)
    recent_steps: list[tuple[int, ...]] = field(default_factory=list)
    recent_lengths: list[NDArray[np.float64]] = field(default_factory=list)
    """The latest windows, which are not yet part of the usual."""
    excursion: Excursion | None = None
    spells: Spells = field(default_factory=Spells)
    events: list[tuple[int, str]] = field(default_factory=list)
    """The latest events of the user's."""
    cpu_wait: float = math.nan
    """Share of its time that a typical rank waits for a CPU, usually, and in the excursion."""
    cpu_wait_now: float = math.nan
    cpu_wait_at: int = -1
    said: float = 0.0
    """Logarithm of the growth, as last said; 0 while not firing."""

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, LivenessObservation):
            self._learn_cpu_wait(observation)
        elif isinstance(observation, EventObservation):
            if not observation.automatic:
                self.events = [*self.events[-7:], (observation.step, observation.text or observation.kind)]
        elif isinstance(observation, StepWindowObservation):
            if (observation.attempt, observation.world_size) != (self.attempt, self.world_size):
                self._reset(observation.attempt, observation.world_size)
            if observation.typical_seconds > 0:
                return self._judge(observation.steps[-1], observation)
        return None

    def _reset(self, attempt: int, world_size: int) -> None:
        self.attempt, self.world_size = attempt, world_size
        self.work, self.spells = (math.nan, math.nan), Spells()
        self.cpu_wait = self.cpu_wait_now = math.nan
        self.cpu_wait_at = -1
        self.said = 0.0
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.skipped = 0
        self.levels, self.parts, self.excursion = [], [], None
        self.recent, self.recent_parts, self.recent_steps, self.recent_lengths = [], [], [], []

    def _learn_cpu_wait(self, seen: LivenessObservation) -> None:
        known = seen.cpu_wait_share[np.isfinite(seen.cpu_wait_share)]
        if not known.size or int(seen.cpu_wait_to.max()) <= self.cpu_wait_at:
            return
        self.cpu_wait_at = int(seen.cpu_wait_to.max())
        value = float(np.median(known))
        if self.excursion is None:
            self.cpu_wait = _towards(self.cpu_wait, value)
        else:
            self.cpu_wait_now = _towards(self.cpu_wait_now, value)

    def _judge(self, step: int, window: StepWindowObservation) -> Verdict | None:
        work = (window.samples, window.micro_batches)
        if not _same_work(work, self.work):
            # Another amount of work a step takes another time.
            self.work = work
            self._begin_anew()
            return self._resolved(step, "a step does another amount of work now") if self.said else None
        if self.skipped < self.config.skipped_windows:
            self.skipped += 1
            return None
        self._remember(window)
        if len(self.levels) < self.config.least_reference:
            return None
        usual = float(np.median(self.levels))
        now = float(np.median(self.recent))
        least = max(
            math.log1p(self.config.share),
            self.config.noise * SIGMA * float(np.median(np.abs(np.array(self.levels) - usual))),
        )
        if self.excursion is None:
            if now - usual < least:
                return None
            self.excursion = self._began(usual)
            self.cpu_wait_now = math.nan
        return self._follow(step, window, now - usual, least)

    def _remember(self, window: StepWindowObservation) -> None:
        """The latest windows; what leaves them is the usual, unless it is part of an excursion."""
        count = self.config.recent_windows
        if len(self.recent) == count and self.excursion is None:
            keep = self.config.reference_windows - 1
            self.levels = [*self.levels[-keep:], self.recent[0]]
            self.parts = [*self.parts[-keep:], self.recent_parts[0]]
        self.recent = [*self.recent[1 - count :], math.log(window.typical_seconds)]
        self.recent_parts = [*self.recent_parts[1 - count :], window.parts]
        longer = 2 * count
        self.recent_steps = [*self.recent_steps[1 - longer :], window.steps]
        self.recent_lengths = [*self.recent_lengths[1 - longer :], window.step_seconds]

    def _began(self, usual: float) -> Excursion:
        """Where it began, from the single steps of the latest windows."""
        lengths = np.concatenate(self.recent_lengths)
        steps = np.concatenate(self.recent_steps)
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = np.log(lengths) - usual
        growth[~np.isfinite(growth)] = np.nan
        since = onset(growth, steps.tolist())
        after = growth[(steps >= since) & np.isfinite(growth)]
        before = growth[(steps < since) & np.isfinite(growth)]
        spread = SIGMA * float(np.median(np.abs(before - np.median(before)))) if before.size > 4 else 0.1
        # The error of a change point falls with the square of the jump over the noise of single values.
        error = max(1.0, (spread / max(float(np.median(after)), 1e-3)) ** 2)
        lasted = lengths[(steps >= since) & np.isfinite(lengths)]
        # The window that shows it is counted when it is followed.
        return Excursion(
            since=since,
            error=min(error, 50.0),
            seconds=float(lasted[:-WINDOW_STEPS].sum()),
            windows=max(lasted.size // WINDOW_STEPS - 1, 0),
        )

    def _follow(
        self, step: int, window: StepWindowObservation, growth: float, least: float
    ) -> Verdict | None:
        excursion = self.excursion
        assert excursion is not None
        excursion.windows += 1
        excursion.seconds += float(np.nansum(window.step_seconds))
        if growth < max(self.said / 2, least / 2):
            excursion.quiet += 1
        else:
            excursion.quiet = 0
        if excursion.quiet >= (self.config.recent_windows if self.said else 1):
            self.excursion = None
            if self.said:
                return self._resolved(step, "steps are as short as they were")
            self.spells.add(max(growth, least), excursion.seconds)
            return None
        if self.said:
            if 0.67 < growth / self.said < 1.5 or excursion.quiet:
                return None
        elif not self._has_lasted(growth, least, excursion):
            return None
        self.said = growth
        return self._verdict(step, growth, excursion)

    def _has_lasted(self, growth: float, least: float, excursion: Excursion) -> bool:
        config = self.config
        if growth < least or excursion.windows < config.windows:
            return False
        explained = self._explained_by_waiting(growth)
        if explained >= _EXPLAINED:
            needed = config.contended_seconds
        elif not explained < _HINTED:  # which holds where it is unknown, too
            needed = config.unknown_seconds
        else:
            needed = config.settle_seconds * min(1.0, config.wander_share / math.expm1(growth)) ** 2
        needed = max(needed, config.spell_factor * self.spells.longest(growth))
        return excursion.seconds >= needed and not self._is_waiting_for_one()

    def _explained_by_waiting(self, growth: float) -> float:
        """Share of what steps grew by that ranks spent ready to run and waiting for a CPU; NaN where that is unknown.

        Only the training threads tell. What else a rank waits for on a full machine (the threads that move gradients, caches, a
        core shared by two threads) does not show, so that a share well below 1 is a full machine already.
        """
        return (self.cpu_wait_now - self.cpu_wait) / -math.expm1(-growth)

    def _grown(self) -> NDArray[np.float64]:
        return np.asarray(np.median(self.recent_parts, axis=0) - np.median(self.parts, axis=0))

    def _is_waiting_for_one(self) -> bool:
        """Whether more than half of what steps grew by is waiting for some rank, which others do not share in."""
        grown = self._grown()
        if not np.isfinite(grown).all():
            return False
        return float(grown[_WAITING]) > 0.5 * max(float(grown.sum()), 0.0)

    def _resolved(self, step: int, why: str) -> Verdict:
        said, self.said = self.said, 0.0
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            reason=f"Steps took {100 * math.expm1(said):.3g} % longer: {why}.",
        )

    def _verdict(self, step: int, growth: float, excursion: Excursion) -> Verdict:
        before, now = math.exp(float(np.median(self.levels))), math.exp(float(np.median(self.recent)))
        grown = self._grown()
        known = np.where(np.isfinite(grown), grown, 0.0)
        leading = int(known.argmax())
        phase = PARTS[leading] if known[leading] > 0.3 * (now - before) else ""
        waited = self.cpu_wait_now - self.cpu_wait
        contended = self._explained_by_waiting(growth) >= _EXPLAINED
        event = next((text for at, text in self.events if abs(at - excursion.since) <= _EVENT_STEPS), "")
        where = f"; its {phase} grew by {seconds_text(float(known[leading]))}" if phase else ""
        if contended:
            where += f", and ranks wait for a CPU {100 * waited:.2g} % of the time more than before"
        declared = f' "{event[:60]}" was logged there' if event else ""
        evidence: dict[str, EvidenceValue] = {
            "slowdown_share": math.expm1(growth),
            "step_seconds_before": before,
            "step_seconds": now,
            "phase": phase,
            "cpu_wait_share_grown": None if math.isnan(waited) else waited,
            "lasted_seconds": excursion.seconds,
            "event": event,
        }
        for name, value in zip(PARTS, grown.tolist(), strict=True):
            evidence[f"grown_{name}_seconds"] = None if math.isnan(value) else value
        advice = {
            "input": "Look at what the data loaders read and decode since then: storage, shard sizes, other jobs on the same disk.",
            "compute": "Compare clocks, temperatures and other processes of the machines with those before; look for a recompilation "
            "or a fallback to a slower kernel.",
            "optimizer": "Look at what the script does between backward and the next forward since then: logging, clipping, copies.",
            "communication": "Look at the network since then: other jobs on it, a link that renegotiated, retransmissions.",
        }.get(
            phase,
            "Compare what was running then with what is running now: other jobs, clocks, storage, network.",
        )
        if contended:
            advice = "Other processes take the CPUs of these machines: move them, or give the ranks cores of their own."
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=excursion.since,
            since_step_error=excursion.error,
            severity=Severity.INFO if event else None,
            confidence=0.9,
            score=growth,
            threshold=math.log1p(self.config.share),
            reason=f"Steps take {100 * math.expm1(growth):.3g} % longer since step {excursion.since:,} "
            f"({seconds_text(before)} before, {seconds_text(now)} now){where}{';' + declared if declared else ''}.",
            evidence=evidence,
            advice=(advice,),
        )


def _towards(old: float, new: float) -> float:
    return new if math.isnan(old) else old + _CPU_WEIGHT * (new - old)


def _same_work(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two windows have as many samples and micro-batches a step, within what uneven last batches make of it."""
    return all(
        (math.isnan(a) and math.isnan(b)) or abs(a - b) <= 0.05 * max(abs(a), abs(b))
        for a, b in zip(one, other, strict=True)
    )
