"""One rank holds the others up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import SIGMA, Matrix, beyond_others, complete, onset
from stallwatch.detector.checks.wording import ranks_text, seconds_text
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict

_STEP, _SYNC, _INPUT, _FORWARD, _BACKWARD, _OPTIMIZER = range(6)
_COLUMNS = 6
_PHASES = ("input", "compute", "optimizer")
_MEDIAN_ERROR = 1.2533
"""Standard error of a median, in those of the mean."""
_MARKS = (1 << 60) - 1
_FEW = 5
"""Below this many ranks their spread says nothing: only the spread over steps does."""


@dataclass(frozen=True, slots=True)
class StragglerConfig:
    """Settings of the straggler check."""

    window_steps: int = 20
    """Steps that are judged together."""
    windows: int = 3
    """Windows in a row in which a rank must stand out."""
    pooled_windows: int = 9
    """Where steps are noisy, so many windows together may show what none of them shows alone."""
    excess_share: float = 0.03
    """What the others lose to it, at least, as a share of the step."""
    excess_seconds: float = 0.0005
    """... and in seconds: below that it is the scheduler of the machine."""
    z: float = 5.0
    """How many robust standard deviations over ranks, and over steps, it must stand out by."""
    lead_share: float = 0.7
    """Share of the steps on which it must be behind the median of the others."""
    spread_share: float = 0.002
    """The spread over ranks is taken to be at least this share of the step."""
    settle_seconds: float = 10.0
    """An excess must have lasted so long: on a busy machine another process holds one rank back for seconds."""
    settle_windows: int = 50
    """... but no longer than so many windows, at most 60."""
    drastic_share: float = 0.4
    """Waiting for data by more than this share of the step needs `windows` windows only: no scheduler does that."""
    resolve_windows: int = 3
    """Windows in a row without it that resolve the finding."""

    def __post_init__(self) -> None:
        for name in ("window_steps", "windows", "resolve_windows", "settle_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.settle_windows > 60:
            raise ValueError(f"settle_windows must be at most 60, not {self.settle_windows}")
        if self.window_steps < 8:
            raise ValueError(
                f"window_steps must be at least 8, not {self.window_steps}: a median of fewer is too rough"
            )
        if not 0 < self.excess_share < 1 or not 0 < self.lead_share <= 1:
            raise ValueError("excess_share and lead_share must be shares between 0 and 1")
        if not self.z > 0:
            raise ValueError(f"z must be above 0, not {self.z}")


@dataclass(slots=True)
class Suspect:
    """A rank that has stood out in a window lately."""

    since: int
    """Step at which its excess began."""
    marks: int = 1
    """Bit i: whether it stood out i windows ago."""
    age: int = 1
    """Windows since it first stood out."""
    quiet: int = 0
    """Windows in a row in which it did not."""
    excess: float = 0.0
    """Running mean of its excess, seconds."""
    latest: float = 0.0
    """Excess in the latest window in which it stood out."""
    step_seconds: float = 0.0
    """Running mean of the whole step's length while it stood out."""
    share: float = 0.0
    z: float = 0.0
    phases: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Running means of its excess by phase, seconds."""
    named: bool = False


def _window() -> Matrix:
    return np.zeros((0, _COLUMNS, 0))


@dataclass(slots=True)
class Straggler:
    """Finds the rank that the others wait for, since when, in which phase and what it costs.

    In synchronous training the slow rank is the one that waits least: everybody else waits for it. Per step, a rank's excess
    is the median wait of the others less its own; per window of 20 steps, the median excess must stand out from the spread
    over ranks and over steps and from a floor, three windows in a row. Where waits are not measured (accelerators without
    synchronising timers), input and forward times are compared instead.

    It cannot see a slow rank among ranks that are all slow in turn (that is noise, or uneven data), excesses below 3 % of the
    step, nor tell a slow link from a slow process when only the wait shows it. Statistics after "Stragglers and comm
    stalls" in docs/research/science.md; leave-one-out slowdown after Lin et al., arXiv 2505.05713.
    """

    kind: ClassVar[str] = "straggler"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, AttemptObservation)

    config: StragglerConfig = field(default_factory=StragglerConfig)
    world_size: int = 0
    sharded: bool = False
    filled: int = 0
    window: Matrix = field(default_factory=_window)
    """The steps of the current window, shape (steps, columns, ranks); NaN where a rank did not report."""
    numbers: list[int] = field(default_factory=list)
    """Their step numbers."""
    past: list[Matrix] = field(default_factory=list)
    """Excess per step and rank of the windows before, for finding where it began."""
    past_numbers: list[list[int]] = field(default_factory=list)
    typical: list[Matrix] = field(default_factory=list)
    """Median excess of each rank in the latest windows."""
    suspects: dict[int, Suspect] = field(default_factory=dict)
    step_seconds: float = 0.0
    """Typical step of the last window."""
    by_wait: bool = True
    said: tuple[int, ...] = ()
    said_share: float = 0.0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, AttemptObservation):
            self._reset(observation.world_size)
            return None
        if not isinstance(observation, StepObservation) or observation.world_size < 2:
            return None
        if observation.parallelism in (Parallelism.LOCAL, Parallelism.SINGLE):
            return None
        if observation.world_size != self.world_size:
            self._reset(observation.world_size)
        self.sharded = observation.parallelism is Parallelism.SHARDED
        self._store(observation)
        if self.filled < self.config.window_steps:
            return None
        verdict = self._judge(observation.step)
        self.filled = 0
        self.numbers = []
        return verdict

    def _reset(self, world_size: int) -> None:
        self.world_size = world_size
        self.window = np.full((self.config.window_steps, _COLUMNS, world_size), np.nan)
        self.filled, self.numbers = 0, []
        self.past, self.past_numbers, self.typical, self.suspects = [], [], [], {}
        self.said, self.said_share = (), 0.0

    def _store(self, step: StepObservation) -> None:
        row = self.window[self.filled]
        columns = (
            step.step_seconds,
            step.sync_seconds,
            step.input_seconds,
            step.forward_seconds,
            step.backward_seconds,
            step.optimizer_seconds,
        )
        if len(step.ranks) == self.world_size:
            for index, column in enumerate(columns):
                row[index] = column
        else:
            row[:] = np.nan
            where = np.array([rank for rank in step.ranks if rank < self.world_size], np.int64)
            for index, column in enumerate(columns):
                row[index, where] = column[: where.size]
        self.filled += 1
        self.numbers.append(step.step)

    def _judge(self, step: int) -> Verdict | None:
        """A window is full."""
        rows, ranks = complete(self.window[:, _STEP], None if self.sharded else self.window[:, _SYNC])
        if len(rows) < self.config.window_steps // 2 or ranks.size < 2:
            return None
        full = self.window[np.ix_(rows, np.arange(_COLUMNS), ranks)]
        seconds = float(np.median(full[:, _STEP]))
        if not seconds > 0:
            return None
        self.step_seconds = seconds
        waits = full[:, _SYNC]
        self.by_wait = (
            not self.sharded
            and bool(np.isfinite(waits).all())
            and float(waits.max(initial=0.0)) > 1e-3 * seconds
        )
        if self.by_wait:
            excess = -beyond_others(waits)
        else:
            own = full[:, _INPUT] if self.sharded else full[:, _INPUT] + full[:, _FORWARD]
            if not np.isfinite(own).all():
                return None
            excess = beyond_others(own)
        typical = np.median(excess, axis=0)
        spread = SIGMA * np.median(np.abs(excess - typical), axis=0)
        over_steps = typical / np.maximum(_MEDIAN_ERROR * spread / math.sqrt(len(rows)), 1e-3 * seconds)
        floor = max(self.config.excess_share * seconds, self.config.excess_seconds)
        score = self._score(typical, over_steps, seconds)
        stands_out = (typical > floor) & (score > self.config.z)
        stands_out &= (excess > 0).mean(axis=0) >= self.config.lead_share
        pooled, pooled_score = self._pool(ranks, typical, seconds)
        longer = ~stands_out & (pooled > floor) & (pooled_score > self.config.z) & (typical > floor / 2)
        score = np.where(longer, pooled_score, score)
        stands_out |= longer
        whole = np.full((len(rows), self.world_size), np.nan)
        whole[:, ranks] = excess
        numbers = [self.numbers[row] for row in rows.tolist()]
        flagged, calm = set(), set()
        for index, rank in enumerate(ranks.tolist()):
            value = float(typical[index])
            suspect = self.suspects.get(rank)
            # Little of what it was: whatever stands out now is the noise of the machine, or another story.
            fallen = suspect is not None and suspect.named and value < 0.3 * suspect.excess
            if stands_out[index] and not fallen:
                flagged.add(rank)
                self._suspect(rank, full, index, whole, numbers, value, float(score[index]))
            elif fallen or value < floor / 2:
                calm.add(rank)
        self._age(flagged, calm)
        self.past.append(whole)
        self.past_numbers.append(numbers)
        if len(self.past) > self._remembered():
            del self.past[0], self.past_numbers[0]
        return self._conclude(step)

    def _remembered(self) -> int:
        """Windows kept step by step, for finding where an excess began: fewer the more ranks there are."""
        if self.world_size <= 16:
            return self.config.pooled_windows + 3
        return 3 if self.world_size <= 1024 else 1

    def _score(self, typical: Matrix, over_steps: Matrix, seconds: float) -> Matrix:
        """How far ranks stand out, from the spread over steps and, when there are enough of them, over ranks."""
        if typical.size < _FEW:
            return over_steps
        around = float(np.median(typical))
        spread = SIGMA * float(np.median(np.abs(typical - around)))
        over_ranks = (typical - around) / max(spread, self.config.spread_share * seconds)
        return np.minimum(over_ranks, over_steps)

    def _pool(self, ranks: NDArray[np.int64], typical: Matrix, seconds: float) -> tuple[Matrix, Matrix]:
        """Mean excess over the latest windows, and its score from the spread over windows."""
        count = self.config.pooled_windows
        whole = np.full(self.world_size, np.nan)
        whole[ranks] = typical
        self.typical = [*self.typical[1 - count :], whole] if count > 1 else [whole]
        if len(self.typical) < count:
            return np.zeros(ranks.size), np.zeros(ranks.size)
        latest = np.stack(self.typical)[:, ranks]
        latest = np.where(np.isfinite(latest), latest, 0.0)
        mean = latest.mean(axis=0)
        error = np.maximum(latest.std(axis=0, ddof=1) / math.sqrt(count), 1e-3 * seconds)
        return mean, self._score(mean, mean / error, seconds)

    def _suspect(
        self,
        rank: int,
        full: Matrix,
        index: int,
        whole: Matrix,
        numbers: list[int],
        excess: float,
        score: float,
    ) -> None:
        suspect = self.suspects.get(rank)
        if suspect is None:
            series = np.concatenate([*(past[:, rank] for past in self.past), whole[:, rank]])
            steps = [number for part in (*self.past_numbers, numbers) for number in part]
            suspect = self.suspects[rank] = Suspect(since=onset(series, steps), marks=0, age=0)
        own = (full[:, _INPUT], full[:, _FORWARD] + full[:, _BACKWARD], full[:, _OPTIMIZER])
        phases = [float(np.median(beyond_others(phase)[:, index])) for phase in own]
        weight = 1.0 / min(suspect.age + 1, 5)
        suspect.latest = excess
        suspect.excess += weight * (excess - suspect.excess)
        suspect.step_seconds += weight * (self.step_seconds - suspect.step_seconds)
        suspect.share = suspect.excess / suspect.step_seconds
        suspect.z = score
        suspect.phases = [
            old + weight * ((new if new == new else 0.0) - old)  # noqa: PLR0124 - NaN where a phase is not measured
            for old, new in zip(suspect.phases, phases, strict=True)
        ]

    def _age(self, flagged: set[int], calm: set[int]) -> None:
        for rank in sorted(self.suspects):
            suspect = self.suspects[rank]
            out = rank in flagged
            suspect.marks = ((suspect.marks << 1) | out) & _MARKS
            suspect.age += 1
            # Between the two thresholds nothing is decided: it neither counts for nor against a named rank.
            suspect.quiet = 0 if out else suspect.quiet + (rank in calm or not suspect.named)
            if suspect.quiet >= (self.config.resolve_windows if suspect.named else 1):
                del self.suspects[rank]

    def _is_settled(self, suspect: Suspect) -> bool:
        config = self.config
        lately = (1 << config.windows) - 1
        if suspect.marks & lately != lately:
            return False
        if suspect.phases[0] >= config.drastic_share * self.step_seconds:
            return True
        seconds = self.step_seconds * config.window_steps
        needed = min(max(config.windows, math.ceil(config.settle_seconds / seconds)), config.settle_windows)
        # One window in ten may have been drowned by noise.
        return (suspect.marks & ((1 << needed) - 1)).bit_count() >= math.ceil(0.9 * needed)

    def _conclude(self, step: int) -> Verdict | None:
        for suspect in self.suspects.values():
            suspect.named = suspect.named or self._is_settled(suspect)
        named = sorted(
            (rank for rank, suspect in self.suspects.items() if suspect.named),
            key=lambda rank: -self.suspects[rank].excess,
        )
        ranks = tuple(sorted(named))
        if not named:
            if not self.said:
                return None
            said, self.said, self.said_share = self.said, (), 0.0
            return Verdict(
                kind=self.kind,
                firing=False,
                step=step,
                reason=f"No rank has held the others up for {self.config.resolve_windows} windows; before it was {ranks_text(said)}.",
                ranks=said,
            )
        worst = self.suspects[named[0]]
        # Windows in which it is ending mix both: what it was stays said.
        ending = worst.quiet > 0 or worst.latest < 0.67 * worst.excess
        if ranks == self.said and (ending or 0.67 < worst.share / self.said_share < 1.5):
            return None
        self.said, self.said_share = ranks, worst.share
        return self._verdict(step, named)

    def _verdict(self, step: int, named: list[int]) -> Verdict:
        worst = self.suspects[named[0]]
        total = sum(max(value, 0.0) for value in worst.phases)
        leading = int(np.argmax(worst.phases))
        phase = _PHASES[leading] if total > 0.3 * worst.excess else "communication"
        since = min(self.suspects[rank].since for rank in named)
        if phase == "communication":
            where = "none of its own phases is longer, so its link or launch is slow"
        else:
            where = f"its {phase} takes {seconds_text(worst.phases[leading])} longer than that of the others"
        others = f", and {ranks_text(named[1:])} less so" if len(named) > 1 else ""
        waited = "the others wait" if self.by_wait else "it takes longer than the others by"
        evidence: dict[str, EvidenceValue] = {
            "slowdown_seconds": worst.excess,
            "slowdown_share": worst.share,
            "step_seconds": worst.step_seconds,
            "phase": phase,
            "measured_by": "wait" if self.by_wait else "own time",
        }
        for name, value in zip(_PHASES, worst.phases, strict=True):
            evidence[f"excess_{name}_seconds"] = value
        gain = min(worst.share, 0.95)
        advice = {
            "input": f"Rank {named[0]}'s data loading is the bottleneck: more workers or prefetching there, or a look at its "
            "storage and shard sizes.",
            "compute": f"Compare clocks, temperature and other processes on the machine of rank {named[0]} with the rest; if its "
            "batches are larger, balance them.",
            "optimizer": f"Look at what rank {named[0]} does between backward and the end of the step: logging, checkpoints.",
            "communication": f"Check the network link of rank {named[0]}, and what its process does outside the step.",
        }[phase]
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=since,
            since_step_error=self.config.window_steps / 4,
            confidence=0.95,
            score=worst.z,
            threshold=self.config.z,
            reason=f"Rank {named[0]} holds the others up since step {since:,}: {waited} {seconds_text(worst.excess)} a step "
            f"({100 * worst.share:.3g} % of {seconds_text(worst.step_seconds)}); {where}{others}.",
            evidence=evidence,
            advice=(advice, f"Without it, steps would be up to {100 * gain:.3g} % shorter."),
            ranks=tuple(sorted(named)),
        )
