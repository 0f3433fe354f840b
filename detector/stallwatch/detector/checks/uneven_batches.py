"""Ranks contribute unequal samples and are averaged as equal, or run out of data at different steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.rank_rows import common, row_of
from stallwatch.detector.checks.wording import ranks_text, seconds_text
from stallwatch.detector.core.inputs import Parallelism, Phase
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict

_KEPT_NORMS = 16
_UNEVEN, _RAN_OUT = "unequal", "ran out"
_AVERAGED = (Parallelism.DATA_PARALLEL, Parallelism.LOCAL, Parallelism.SHARDED)


@dataclass(frozen=True, slots=True)
class UnevenBatchesConfig:
    """Settings of the uneven batches check."""

    window_steps: int = 20
    """Steps that are judged together."""
    windows: int = 3
    """Windows in a row in which the same ranks must have more, and the same ones less."""
    ratio: float = 1.2
    """Of the most to the least samples a rank contributes: below it, no sample's weight is off by more than a tenth."""
    z: float = 5.0
    """How many standard errors the difference must have, beyond what the largest of so many ranks has by chance."""
    gradient_samples: int = 3
    """Sampled steps whose local norms are asked whether the loss is weighted by samples already."""
    wait_seconds: float = 10.0
    """A rank has run out when others wait so long for a step that it will not take."""
    resolve_windows: int = 2
    """Even windows in a row that resolve the finding."""

    def __post_init__(self) -> None:
        if self.window_steps < 8 or self.windows < 1 or self.gradient_samples < 1 or self.resolve_windows < 1:
            raise ValueError(
                "window_steps must be at least 8; windows, gradient_samples and resolve_windows at least 1"
            )
        if not self.ratio > 1 or not self.z > 0 or not self.wait_seconds > 0:
            raise ValueError("ratio must be above 1, z and wait_seconds above 0")


@dataclass(slots=True)
class UnevenBatches:
    """Finds ranks whose batches are persistently larger or smaller than those of others, which an average of ranks does not see.

    Data-parallel averaging gives every rank the same weight, so a sample on a rank with few of them counts for more. Per
    window, both the mean and the median samples of a step are compared: variable lengths, which vary around the same mean on
    all ranks, and an epoch's last batch are in order. Where local gradient norms are sampled, ranks whose norm grows with
    their samples have their loss weighted already and are left alone.

    Ranks that run out at different steps are found when one has said goodbye and another waits in the backward pass of a
    step that it will not take. Ranks without samples (Join) are left out. It trusts what is logged as `samples`. Row 19 and
    25 of the failure table.
    """

    kind: ClassVar[str] = "uneven_batches"
    consumes: ClassVar[tuple[type, ...]] = (
        StepObservation,
        SampledObservation,
        LivenessObservation,
        AttemptObservation,
    )

    config: UnevenBatchesConfig = field(default_factory=UnevenBatchesConfig)
    world_size: int = 0
    samples: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """Of the window's steps, shape (steps, ranks); 0 where unknown."""
    numbers: list[int] = field(default_factory=list)
    norms: list[NDArray[np.float64]] = field(default_factory=list)
    """Logarithms of the ranks' local gradient norms on the latest sampled steps."""
    larger: list[int] = field(default_factory=list)
    smaller: list[int] = field(default_factory=list)
    """The ranks with more and with fewer samples in all windows of the present row."""
    row: int = 0
    """Windows in a row."""
    row_since: int = 0
    even: int = 0
    said: str = ""
    said_ranks: tuple[int, ...] = ()
    since: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, AttemptObservation):
            self._reset(observation.world_size)
            return None
        if isinstance(observation, LivenessObservation):
            return self._look(observation)
        if isinstance(observation, SampledObservation):
            self._sample(observation)
            return None
        if (
            not isinstance(observation, StepObservation)
            or observation.world_size < 2
            or observation.parallelism not in _AVERAGED
        ):
            return None
        if observation.world_size != self.world_size:
            self._reset(observation.world_size)
        self.samples[len(self.numbers)] = row_of(observation.samples, observation.ranks, self.world_size, 0.0)
        self.numbers.append(observation.step)
        if len(self.numbers) < self.config.window_steps:
            return None
        verdict = self._judge(observation.step)
        self.numbers = []
        return verdict

    def _sample(self, sample: SampledObservation) -> None:
        if sample.world_size == self.world_size:
            with np.errstate(divide="ignore", invalid="ignore"):
                norms = 0.5 * np.log(sample.local_gradient_square)
            row = row_of(norms, sample.ranks, self.world_size, math.nan)
            self.norms = [*self.norms[1 - _KEPT_NORMS :], row]

    def _reset(self, world_size: int) -> None:
        self.world_size = world_size
        self.samples = np.zeros((self.config.window_steps, world_size))
        self.numbers, self.norms, self.larger, self.smaller = [], [], [], []
        self.row = self.even = 0
        self.said, self.said_ranks = "", ()

    def _judge(self, step: int) -> Verdict | None:
        """A window is full."""
        rows, ranks = common(self.samples > 0)
        if len(rows) < self.config.window_steps // 2 or ranks.size < 2:
            return None
        block = self.samples[np.ix_(rows, ranks)]
        means = block.mean(axis=0)
        centre = np.log(np.median(means))
        # Of mean and median the one that says less: an epoch's last batch moves the mean only, a rare large one likewise.
        both = np.stack([np.log(means) - centre, np.log(np.median(block, axis=0)) - centre])
        off = np.where(
            (both > 0).all(axis=0), both.min(axis=0), np.where((both < 0).all(axis=0), both.max(axis=0), 0.0)
        )
        error = float(np.sqrt(block.var(axis=0, ddof=1).mean() / len(rows)))
        score = float(means.max() - means.min()) / max(error, 1e-9)
        # The range of so many equal ranks is about twice this many standard errors by chance.
        threshold = self.config.z + 2 * math.sqrt(2 * math.log(ranks.size))
        uneven = float(off.max() - off.min()) > math.log(self.config.ratio) and score > threshold
        half = 0.5 * math.log(self.config.ratio)
        larger = (
            set(ranks[off >= min(half, float(off.max()))].tolist()) if uneven and off.max() > 0 else set()
        )
        smaller = (
            set(ranks[off <= max(-half, float(off.min()))].tolist()) if uneven and off.min() < 0 else set()
        )
        if not uneven:
            self.row, self.even = 0, self.even + 1
            if self.said == _UNEVEN and self.even >= self.config.resolve_windows:
                return self._over(step)
            return None
        self.even = 0
        kept = (larger & set(self.larger), smaller & set(self.smaller))
        if self.row and (kept[0] or not self.larger) and (kept[1] or not self.smaller):
            larger, smaller = kept
            self.row += 1
        else:
            self.row, self.row_since = 1, self._onset(rows, ranks, larger, smaller)
        self.larger, self.smaller = sorted(larger), sorted(smaller)
        if self.row < self.config.windows or self._is_weighted(ranks, means):
            return None
        return self._say_unequal(step, ranks, means, score, threshold)

    def _onset(
        self, rows: NDArray[np.int64], ranks: NDArray[np.int64], larger: set[int], smaller: set[int]
    ) -> int:
        """The first step of the window from which on the ranks at fault are apart."""
        inside = np.isin(ranks, sorted(larger | smaller))
        block = np.log(self.samples[np.ix_(rows, ranks)])
        centre = np.median(block, axis=1, keepdims=True)
        apart = (np.abs(block - centre)[:, inside] > 0.25 * math.log(self.config.ratio)).mean(axis=1) >= 0.5
        later = np.cumsum(apart[::-1])[::-1] / np.arange(len(rows), 0, -1)
        return self.numbers[int(rows[int(np.argmax(later >= 0.8))])]

    def _is_weighted(self, ranks: NDArray[np.int64], means: NDArray[np.float64]) -> bool:
        """Whether local gradients grow with the ranks' samples, as they do where the loss is weighted by them.

        A mean over more samples has a norm that is no larger; one weighted by its samples grows at least with their root.
        """
        norms = [
            row[ranks] for row in self.norms if row.size >= ranks.max() and np.isfinite(row[ranks]).all()
        ]
        if not norms:
            return False
        if len(norms) < self.config.gradient_samples:
            # Asked, and not yet answered.
            return True
        size = np.log(means) - np.log(means).mean()
        norm = np.median(np.stack(norms[-self.config.gradient_samples * 2 :]), axis=0)
        slope = float(np.dot(size, norm - norm.mean()) / np.dot(size, size))
        return slope > 0.25

    def _say_unequal(
        self, step: int, ranks: NDArray[np.int64], means: NDArray[np.float64], score: float, threshold: float
    ) -> Verdict | None:
        named = tuple(sorted({*self.larger, *self.smaller} if len(ranks) == 2 else self._minority(ranks)))
        if self.said == _UNEVEN and named == self.said_ranks:
            return None
        if self.said != _UNEVEN:
            self.since = self.row_since
        self.said, self.said_ranks = _UNEVEN, named
        most, least = int(np.argmax(means)), int(np.argmin(means))
        overall = float(means.mean())
        # An average of ranks gives each rank's samples this weight, where 1 would be right.
        heaviest, lightest = overall / float(means[least]), overall / float(means[most])
        evidence: dict[str, EvidenceValue] = {
            "form": _UNEVEN,
            "samples_most": float(means[most]),
            "samples_least": float(means[least]),
            "rank_most": int(ranks[most]),
            "rank_least": int(ranks[least]),
            "weight_heaviest": heaviest,
            "weight_lightest": lightest,
            "weighted_by_samples": False if self.norms else None,
        }
        if len(ranks) <= 64:
            evidence["samples_by_rank"] = tuple(float(value) for value in means)
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=self.config.window_steps / 4,
            confidence=0.95 if self.norms else 0.85,
            score=score,
            threshold=threshold,
            reason=f"Ranks are averaged as equals and are not, since step {self.since:,}: rank {int(ranks[most])} contributes "
            f"{means[most]:,.4g} samples a step and rank {int(ranks[least])} {means[least]:,.4g}, so that their samples count "
            f"{lightest:.2f} and {heaviest:.2f} times what they should.",
            evidence=evidence,
            advice=(
                "Give all ranks batches of the same size (drop_last, or shards of equal length).",
                (
                    "Or weight each rank's mean loss by its samples times the world size over the samples of all ranks, so that "
                    "the average over ranks is one over samples."
                ),
            ),
            ranks=named,
        )

    def _minority(self, ranks: NDArray[np.int64]) -> list[int]:
        """Those to name: the side with fewer ranks, or both sides where neither is the exception."""
        sides = [side for side in (self.larger, self.smaller) if side and 2 * len(side) < ranks.size]
        return sorted({rank for side in sides for rank in side} or {*self.larger, *self.smaller})

    def _over(self, step: int) -> Verdict:
        self.said, ranks, self.said_ranks = "", self.said_ranks, ()
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            since_step=self.since,
            reason=f"All ranks contribute about as many samples again, up to step {step:,}.",
            ranks=ranks,
        )

    def _look(self, seen: LivenessObservation) -> Verdict | None:
        """Whether a rank is done while others wait for it in a backward pass."""
        if self.said or seen.world_size < 2 or not seen.finished.any():
            return None
        done = seen.finished & np.array([seen.endings.get(rank, "") == "finished" for rank in seen.ranks])
        waits = (seen.phase == Phase.SYNC) | (seen.phase == Phase.BACKWARD)
        running = ~seen.finished & seen.connected & seen.heard
        long = (seen.phase_seconds >= self.config.wait_seconds) & (
            seen.stuck_seconds >= self.config.wait_seconds
        )
        waiting = running & waits & long
        if not done.any() or not waiting.any():
            return None
        last = int(seen.last_step[done].max())
        # The others have done all that the finished ones have, and are in a step more.
        waiting &= seen.last_step >= last
        if not waiting.any():
            return None
        self.said, self.since = _RAN_OUT, last + 1
        early = tuple(seen.ranks[i] for i in np.flatnonzero(done))
        late = tuple(seen.ranks[i] for i in np.flatnonzero(waiting))
        self.said_ranks = early
        seconds = float(seen.stuck_seconds[waiting].min())
        has, wait = ("has", "waits") if len(early) == 1 else ("have", "waits")
        wait = "waits" if len(late) == 1 else "wait"
        return Verdict(
            kind=self.kind,
            firing=True,
            step=max(seen.step, last + 1),
            since_step=last + 1,
            confidence=0.95,
            score=seconds,
            threshold=self.config.wait_seconds,
            reason=f"{ranks_text(early).capitalize()} {has} run out of data after step {last:,} while {ranks_text(late)} {wait} "
            f"in the backward pass of step {last + 1:,} for {seconds_text(seconds)}: shards are of unequal length.",
            evidence={
                "form": _RAN_OUT,
                "last_step_finished": last,
                "ranks_waiting": late[:64],
                "waited_seconds": seconds,
            },
            advice=(
                (
                    "Give all ranks the same number of batches (DistributedSampler pads or drops to that), or train inside "
                    "model.join()."
                ),
                "Stop this job: the ranks that wait can only time out.",
            ),
            ranks=early,
        )
