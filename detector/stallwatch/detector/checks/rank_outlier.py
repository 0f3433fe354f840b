"""One rank's loss or gradient is off from that of its peers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import SIGMA, Matrix, beyond_others, onset
from stallwatch.detector.checks.rank_rows import common, row_of
from stallwatch.detector.checks.rank_spread import (
    MANY,
    MEDIAN_ERROR,
    beyond_usual,
    error_of_typical,
    standing_out,
)
from stallwatch.detector.checks.wording import ranks_text
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict

_KEPT_NORMS = 12
_KEPT_MEANS = 6
_KEPT_SPREADS = 32


@dataclass(frozen=True, slots=True)
class RankOutlierConfig:
    """Settings of the rank outlier check."""

    window_steps: int = 50
    """Steps that are judged together."""
    windows: int = 4
    """Of so many windows ..."""
    needed_windows: int = 2
    """... so many, the latest among them, must show the rank off to the same side."""
    z: float = 5.0
    """How many robust standard deviations over ranks, and over steps, it must be off by."""
    loss_share: float = 0.03
    """... and by how much of the loss."""
    few_loss_share: float = 0.06
    """The same with fewer than 8 ranks."""
    pair_loss_share: float = 0.5
    """The same with two ranks, which can only be told to differ."""
    start_factor: float = 100.0
    """The loss counts as half of what it was at the start, or so many times what it is, at least, whichever is less: beside
    what is left of a loss that has all but vanished, everything is large."""
    norm_samples: int = 8
    """Sampled steps whose local gradient norms are judged together."""
    norm_ratio: float = 1.3
    """Of a rank's norm to that of the others, at least; with fewer than 8 ranks its cube, with two its sixth power."""
    range_factor: float = 4.0
    """With fewer than 8 ranks, it must be off by so many times the range of all others, and their spread of late."""
    spike_ratio: float = 30.0
    """A norm so many times that of the others and its own is a spike; ..."""
    spikes: int = 3
    """... so many of one rank, and hardly any of others, are no accident."""

    def __post_init__(self) -> None:
        if self.window_steps < 20 or not 1 <= self.needed_windows <= self.windows <= 32:
            raise ValueError(
                "window_steps must be at least 20, and needed_windows between 1 and windows, which is at most 32"
            )
        for name in ("loss_share", "few_loss_share", "pair_loss_share", "start_factor", "z", "range_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not self.norm_ratio > 1 or not self.spike_ratio > 2 or self.spikes < 2:
            raise ValueError("norm_ratio must be above 1, spike_ratio above 2, and spikes at least 2")
        if not 4 <= self.norm_samples <= _KEPT_NORMS:
            raise ValueError(f"norm_samples must be 4 to {_KEPT_NORMS}, not {self.norm_samples}")


@dataclass(slots=True)
class Deviation:
    """A rank whose loss has been off in a window lately."""

    since: int
    sign: int
    marks: int = 1
    """Bit i: whether it was off i windows ago."""
    excess: float = 0.0
    """Latest excess over the others' loss."""
    level: float = 0.0
    z: float = 0.0


@dataclass(slots=True)
class RankOutlier:
    """Finds ranks whose loss, or local gradient norm, is persistently off from that of all others: since when and by how much.

    Loss: over 50 steps, the median of a rank's loss less that of the others, and the same of sample-weighted means, must both
    stand out from the spread over ranks, the noise over steps, and a share of the loss, in two of four windows (measured over
    40 jobs of 8, 64 and 1024 ranks: no false alarm, a shift of 20 % found in 98 %). Gradients: the same for the logarithm of
    local norms over eight sampled steps, among ranks with equal samples; and spikes by orders of magnitude that keep coming
    from one rank, as failing hardware makes them.

    It cannot tell bad data from data that is different on purpose (a language or sensor a rank), nor say which of two ranks
    is off. Ranks that all log the all-reduced loss show nothing here.
    """

    kind: ClassVar[str] = "rank_outlier"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, SampledObservation, AttemptObservation)

    config: RankOutlierConfig = field(default_factory=RankOutlierConfig)
    world_size: int = 0
    losses: Matrix = field(default_factory=lambda: np.zeros((0, 0)))
    """Loss sums of the window's steps, shape (steps, ranks); NaN where unknown."""
    samples: Matrix = field(default_factory=lambda: np.zeros((0, 0)))
    numbers: list[int] = field(default_factory=list)
    past: Matrix = field(default_factory=lambda: np.zeros((0, 0)))
    """Excess of each rank at the steps of the window before, for finding where it began; empty for large worlds."""
    past_numbers: list[int] = field(default_factory=list)
    means: list[NDArray[np.float64]] = field(default_factory=list)
    """Mean losses of the ranks in the latest windows, where there are few ranks."""
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """How far ranks stood out in the window before, and to which side."""
    start_level: float = 0.0
    deviations: dict[int, Deviation] = field(default_factory=dict)
    norms: list[NDArray[np.float64]] = field(default_factory=list)
    """Logarithms of the ranks' norms beyond those of the others, of the latest sampled steps."""
    own_norms: list[NDArray[np.float64]] = field(default_factory=list)
    """The logarithms themselves."""
    norm_steps: list[int] = field(default_factory=list)
    norm_spreads: list[float] = field(default_factory=list)
    """Median deviation of the norms from their ranks' typical ones, of the latest looks."""
    norm_named: dict[int, float] = field(default_factory=dict)
    """Ranks whose norms are off, with the logarithm of the ratio."""
    norm_since: int = 0
    spiked: dict[int, int] = field(default_factory=dict)
    spiked_since: int = 0
    said: tuple[int, ...] = ()
    since: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, AttemptObservation):
            self._reset(observation.world_size)
            return None
        if not isinstance(observation, (StepObservation, SampledObservation)) or observation.world_size < 2:
            return None
        if observation.parallelism in (Parallelism.SINGLE, Parallelism.UNWRAPPED):
            # Processes that are nobody's peers.
            return None
        if isinstance(observation, SampledObservation):
            usable = (
                observation.world_size == self.world_size
                and observation.parallelism is Parallelism.DATA_PARALLEL
            )
            return self._sample(observation) if usable else None
        if observation.world_size != self.world_size:
            self._reset(observation.world_size)
        row = len(self.numbers)
        self.losses[row] = row_of(observation.loss_sum, observation.ranks, self.world_size, math.nan)
        self.samples[row] = row_of(observation.samples, observation.ranks, self.world_size, 0.0)
        self.numbers.append(observation.step)
        if len(self.numbers) < self.config.window_steps:
            return None
        verdict = self._judge(observation.step)
        self.numbers = []
        return verdict

    def _reset(self, world_size: int) -> None:
        self.world_size = world_size
        shape = (self.config.window_steps, world_size)
        self.losses, self.samples = np.full(shape, np.nan), np.zeros(shape)
        self.past, self.numbers, self.past_numbers = np.zeros((0, 0)), [], []
        self.means, self.start_level, self.deviations = [], 0.0, {}
        self.scores = np.zeros(0)
        self.norms, self.own_norms, self.norm_steps, self.norm_named = [], [], [], {}
        self.norm_spreads = []
        self.spiked, self.said = {}, ()

    def _judge(self, step: int) -> Verdict | None:
        """A window is full."""
        rows, ranks = common((self.samples > 0) & np.isfinite(self.losses))
        if len(rows) < self.config.window_steps // 2 or ranks.size < 2:
            return None
        sums, samples = self.losses[np.ix_(rows, ranks)], self.samples[np.ix_(rows, ranks)]
        losses = sums / samples
        level = abs(float(np.median(losses)))
        self.start_level = self.start_level or level
        excess = beyond_others(losses)
        typical = np.median(excess, axis=0)
        # Means have the same expectation whatever the number of samples; medians of skewed losses have not.
        means = sums.sum(axis=0) / samples.sum(axis=0)
        mean = beyond_others(means[None, :])[0]
        excess_of = np.where(np.sign(typical) == np.sign(mean), np.sign(typical), 0.0) * np.minimum(
            np.abs(typical), np.abs(mean)
        )
        error = np.maximum(error_of_typical(excess), 1e-9 * max(level, 1e-300))
        scale = max(level, min(self.start_level / 2, self.config.start_factor * level))
        score = standing_out(excess_of, error, 0.002 * scale, self.config.range_factor)
        if ranks.size < MANY:
            row = np.full(self.world_size, np.nan)
            row[ranks] = means
            self.means = [*self.means[1 - _KEPT_MEANS :], row]
            history = np.stack(self.means)[:, ranks]
            score[~beyond_usual(history, np.abs(excess_of), self.config.range_factor)] = 0.0
        off = (score > self.config.z) & (np.abs(excess_of) > self._share(ranks.size) * scale)
        whole = np.full((len(rows), self.world_size), np.nan)
        whole[:, ranks] = excess
        numbers = [self.numbers[row] for row in rows.tolist()]
        for rank in self.deviations:
            self.deviations[rank].marks = (self.deviations[rank].marks << 1) & (
                (1 << self.config.windows) - 1
            )
        for index in np.flatnonzero(off).tolist():
            self._mark(int(ranks[index]), float(excess_of[index]), level, float(score[index]), whole, numbers)
        self._note_growing(ranks, np.sign(excess_of) * score, off)
        self.deviations = {rank: each for rank, each in self.deviations.items() if each.marks}
        small = self.world_size <= 1024
        self.past, self.past_numbers = (whole, numbers) if small else (np.zeros((0, 0)), [])
        return self._conclude(step)

    def _note_growing(
        self, ranks: NDArray[np.int64], scores: NDArray[np.float64], off: NDArray[np.bool_]
    ) -> None:
        """Counts the window before as well where the two together say as much as two that just pass.

        What is wrong from a step on shows more and more, as the others go on learning.
        """
        row = np.full(self.world_size, np.nan)
        row[ranks] = scores
        if self.scores.size == self.world_size:
            together = np.abs(scores + self.scores[ranks])
            alike = scores * self.scores[ranks] > 0
            for rank in ranks[off & alike & (together > 2 * self.config.z)].tolist():
                self.deviations[rank].marks |= 2
        self.scores = row

    def _share(self, count: int) -> float:
        config = self.config
        return (
            config.loss_share
            if count >= MANY
            else config.few_loss_share
            if count > 2
            else config.pair_loss_share
        )

    def _mark(
        self, rank: int, excess: float, level: float, score: float, whole: Matrix, numbers: list[int]
    ) -> None:
        sign = 1 if excess > 0 else -1
        known = self.deviations.get(rank)
        if known is None or known.sign != sign:
            series, steps = sign * whole[:, rank], numbers
            if self.past.size:
                series, steps = (
                    np.concatenate([sign * self.past[:, rank], series]),
                    [*self.past_numbers, *numbers],
                )
            known = self.deviations[rank] = Deviation(onset(series, steps), sign)
        known.marks |= 1
        known.excess, known.level, known.z = excess, level, score

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        with np.errstate(divide="ignore", invalid="ignore"):
            norms = 0.5 * np.log(
                row_of(sample.local_gradient_square, sample.ranks, self.world_size, math.nan)
            )
        samples = row_of(sample.samples, sample.ranks, self.world_size, 0.0)
        # A smaller batch has a larger norm: only ranks with as many samples as most are compared.
        typical = float(np.median(samples))
        norms[~np.isfinite(norms) | (np.abs(samples - typical) > 0.1 * typical)] = np.nan
        known = np.flatnonzero(np.isfinite(norms))
        if known.size < 2:
            return None
        row = np.full(self.world_size, np.nan)
        row[known] = beyond_others(norms[known][None, :])[0]
        self._note_spikes(sample.step, norms, row)
        self.norms = [*self.norms[1 - _KEPT_NORMS :], row]
        self.own_norms = [*self.own_norms[1 - _KEPT_NORMS :], norms]
        self.norm_steps = [*self.norm_steps[1 - _KEPT_NORMS :], sample.step]
        self._judge_norms()
        return self._conclude(sample.step)

    def _note_spikes(self, step: int, norms: NDArray[np.float64], row: NDArray[np.float64]) -> None:
        if len(self.own_norms) < 4 or np.count_nonzero(np.isfinite(row)) < 3:
            return
        limit = math.log(self.config.spike_ratio)
        usual = np.median(np.stack(self.own_norms), axis=0)
        for rank in np.flatnonzero((row > limit) & (norms - usual > limit)).tolist():
            if not self.spiked:
                self.spiked_since = step
            self.spiked[rank] = self.spiked.get(rank, 0) + 1

    def _judge_norms(self) -> None:
        needed = self.config.norm_samples
        if len(self.norms) < needed:
            return
        latest = np.stack(self.norms[-needed:])
        ranks = np.flatnonzero(np.isfinite(latest).all(axis=0))
        named: dict[int, float] = {}
        if ranks.size >= 2:
            latest = latest[:, ranks]
            typical = np.median(latest, axis=0)
            error = self._error_of_norms(np.abs(latest - typical))
            score = standing_out(typical, error, 0.02, self.config.range_factor)
            floor = math.log(self.config.norm_ratio) * (
                1 if ranks.size >= MANY else 3 if ranks.size > 2 else 6
            )
            same_side = (np.sign(latest) == np.sign(typical)).mean(axis=0) >= 0.85
            off = (score > self.config.z) & (np.abs(typical) > floor) & same_side
            named = {int(ranks[index]): float(typical[index]) for index in np.flatnonzero(off)}
        if named and not self.norm_named:
            # The first of the samples from which on they were well on their way there.
            value = np.array(list(named.values()))
            there = np.stack(self.norms[-needed:])[:, list(named)] * np.sign(value) > np.abs(value) / 2
            lasting = np.cumsum(there.all(axis=1)[::-1])[::-1] / np.arange(needed, 0, -1)
            self.norm_since = self.norm_steps[-needed + int(np.argmax(lasting >= 0.8))]
        # Between the two thresholds those that were named stay so.
        kept = {
            rank: value
            for rank, value in self.norm_named.items()
            if rank not in named
            and rank in ranks
            and abs(float(np.median(latest[:, ranks == rank]))) > abs(value) / 2
        }
        self.norm_named = named | kept

    def _error_of_norms(self, around: Matrix) -> NDArray[np.float64]:
        """Standard errors of the ranks' typical norms.

        Eight samples of one rank say little about their own spread, and are looked at again and again: the smallest that
        they ever show by chance decides. Ranks whose gradients are alike spread alike, now and a while ago.
        """
        self.norm_spreads = [*self.norm_spreads[1 - _KEPT_SPREADS :], float(np.median(around))]
        spread = SIGMA * np.maximum(np.median(around, axis=0), np.median(self.norm_spreads))
        return np.asarray(np.maximum(MEDIAN_ERROR * spread / math.sqrt(len(around) - 1), 0.01))

    def _conclude(self, step: int) -> Verdict | None:
        needed = self.config.needed_windows
        by_loss = {
            rank: each
            for rank, each in self.deviations.items()
            if each.marks.bit_count() >= needed or (rank in self.said and each.marks)
        }
        total = sum(self.spiked.values())
        by_spikes = [
            rank
            for rank, count in sorted(self.spiked.items())
            if count >= self.config.spikes and count >= 0.8 * total
        ]
        ranks = tuple(sorted({*by_loss, *self.norm_named, *by_spikes}))
        if ranks == self.said:
            return None
        if not ranks:
            said, self.said = self.said, ()
            return Verdict(
                kind=self.kind,
                firing=False,
                step=step,
                since_step=self.since,
                reason=f"Loss and gradients of {ranks_text(said)} are like those of the others again, up to step {step:,}.",
                ranks=said,
            )
        if not self.said:
            onsets = [each.since for each in by_loss.values()]
            onsets += [self.norm_since] if self.norm_named else []
            onsets += [self.spiked_since] if by_spikes else []
            self.since = min(onsets)
        self.said = ranks
        return self._say(step, by_loss, by_spikes)

    def _say(self, step: int, by_loss: dict[int, Deviation], by_spikes: list[int]) -> Verdict:
        ranks, pair = self.said, self.world_size == 2
        parts: list[str] = []
        evidence: dict[str, EvidenceValue] = {}
        score = 0.0
        if by_loss:
            worst = max(by_loss, key=lambda rank: abs(by_loss[rank].excess))
            each = by_loss[worst]
            score = each.z
            side = "above" if each.sign > 0 else "below"
            relative = abs(each.excess) / each.level if each.level > 0 else math.inf
            share = f" ({100 * relative:.3g} % of {each.level:.4g})" if relative < 100 else ""
            parts.append(
                f"the loss of rank {worst} is {abs(each.excess):.3g} {side} that of the others{share}"
            )
            evidence |= {"loss_excess": each.excess, "loss_level": each.level, "loss_rank": worst}
        if self.norm_named:
            worst = max(self.norm_named, key=lambda rank: abs(self.norm_named[rank]))
            ratio = math.exp(self.norm_named[worst])
            parts.append(f"the local gradient norm of rank {worst} is {ratio:.3g} times that of the others")
            evidence |= {"norm_ratio": ratio, "norm_rank": worst}
        for rank in by_spikes:
            parts.append(
                f"rank {rank} had {self.spiked[rank]} gradients of more than {self.config.spike_ratio:.0f} times the usual norm"
            )
            evidence |= {"spikes": self.spiked[rank], "spike_rank": rank}
        what = " and ".join(parts)
        end = "; of two, neither can be called the odd one" if pair else ""
        named = f"rank {ranks[0]}" if len(ranks) == 1 else "these ranks"
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=self.config.window_steps / 4,
            confidence=0.6 if pair else 0.9,
            score=score or self.config.z,
            threshold=self.config.z,
            reason=f"{ranks_text(ranks).capitalize()} {'differs' if len(ranks) == 1 else 'differ'} from the other ranks since "
            f"step {self.since:,}: {what}{end}."
            if not pair
            else f"The two ranks differ since step {self.since:,}: {what}{end}.",
            evidence=evidence,
            advice=(
                f"Look at the data of {named}: labels, decoding, normalisation, a shard of another kind.",
                (
                    f"If the data is in order, test the hardware of {named}: run it on another machine and see whether this "
                    "follows the shard or the machine."
                ),
                "If ranks are meant to hold different kinds of data, nothing is wrong.",
            ),
            ranks=(0, 1) if pair else ranks,
        )
