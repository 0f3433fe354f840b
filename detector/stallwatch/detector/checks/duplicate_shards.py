"""Ranks train on the same samples."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.duplicate_shards_words import AGREEMENT, INPUTS, NORMS, Groups, Words
from stallwatch.detector.checks.rank_rows import common, first_alike, row_of
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import Severity, Verdict

_JUDGED = (Parallelism.DATA_PARALLEL, Parallelism.LOCAL)
"""Sharded, tensor-parallel and pipeline-parallel ranks are fed the same batch on purpose; unwrapped ones need not belong
together at all."""
_KEPT_AGREEMENTS = 12
_REMEMBERED_RANKS = 1024


@dataclass(frozen=True, slots=True)
class DuplicateShardsConfig:
    """Settings of the duplicate shards check."""

    window_steps: int = 24
    """Steps whose inputs are compared together. One equal step is padding at the end of an epoch; this many are no accident."""
    share: float = 0.9
    """Share of a window's steps on which the inputs of two ranks must be equal."""
    samples: int = 4
    """Sampled steps in a row with bit-identical local gradient norms, where inputs are not known."""
    agreement: float = 0.95
    """Of the ranks' gradients, above which ..."""
    correlation: float = 0.95
    """... and of the step-to-step changes of their losses, above which they are suspected without any equality."""
    agreement_ranks: int = 4
    """Fewer ranks agree too easily for that."""
    resolve_windows: int = 2
    """Windows in a row without it that resolve the finding."""

    def __post_init__(self) -> None:
        if self.window_steps < 8:
            raise ValueError(f"window_steps must be at least 8, not {self.window_steps}")
        if self.samples < 2 or self.resolve_windows < 1 or self.agreement_ranks < 2:
            raise ValueError(
                "samples and agreement_ranks must be at least 2 and resolve_windows at least 1, not "
                f"{self.samples}, {self.agreement_ranks} and {self.resolve_windows}"
            )
        for name in ("share", "agreement", "correlation"):
            if not 0.5 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0.5 and 1, not {getattr(self, name)}")


def _no_prints() -> NDArray[np.int64]:
    return np.zeros((0, 0), np.int64)


@dataclass(slots=True)
class DuplicateShards:
    """Finds ranks that are fed the same samples: which, since when, and how large the batch really is.

    Three signs, in order of certainty. The checksums of the ranks' inputs are equal on nearly all steps of a window, while
    they change from step to step. Where inputs are not known, local gradient norms are bit-identical on several sampled
    steps. Where augmentation or noise hides both, agreement A = |mean gradient|^2 / mean |local gradient|^2 near 1 together
    with losses that move as one: this is only a suspicion (`info`), for large batches and steps of one difficulty do the same.

    Equal losses decide nothing: many scripts log the all-reduced loss. It cannot see ranks that draw the same samples in
    another order, nor, with certainty, duplicates behind random augmentation. Ranks whose averaged gradients differ are not
    replicas of one another and are left alone. Row 17 of docs/ddp-failures.md.
    """

    kind: ClassVar[str] = "duplicate_shards"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, SampledObservation, AttemptObservation)

    config: DuplicateShardsConfig = field(default_factory=DuplicateShardsConfig)
    world_size: int = 0
    inputs: NDArray[np.int64] = field(default_factory=_no_prints)
    """Checksums of the window's steps, shape (steps, ranks); -1 where unknown."""
    gradients: NDArray[np.int64] = field(default_factory=_no_prints)
    """Fingerprints of the averaged gradients, likewise."""
    numbers: list[int] = field(default_factory=list)
    past: NDArray[np.int64] = field(default_factory=_no_prints)
    """Checksums of the window before, for finding where it began; empty for large worlds."""
    past_numbers: list[int] = field(default_factory=list)
    distinct: bool = False
    """Whether the latest window with known inputs had no two ranks alike."""
    batch: float = 0.0
    """Running mean of the samples of a step, all ranks together."""
    losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Mean loss of each rank at the step before."""
    common_moves: list[float] = field(default_factory=list)
    own_moves: list[float] = field(default_factory=list)
    """Of the latest steps: the mean change of the ranks' losses, and the variance of their changes around it."""
    agreements: list[float] = field(default_factory=list)
    norm_groups: Groups = ()
    norm_samples: int = 0
    """Sampled steps in a row with these groups of equal norms."""
    norm_since: int = 0
    said: Groups = ()
    said_by: str = ""
    since: int = 0
    clean: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, AttemptObservation):
            self._reset(observation.world_size)
            return None
        if isinstance(observation, SampledObservation):
            if observation.parallelism not in _JUDGED or observation.world_size != self.world_size:
                return None
            return self._sample(observation)
        if (
            not isinstance(observation, StepObservation)
            or observation.world_size < 2
            or observation.parallelism not in _JUDGED
        ):
            return None
        if observation.world_size != self.world_size:
            self._reset(observation.world_size)
        self._store(observation)
        if len(self.numbers) < self.config.window_steps:
            return None
        verdict = self._judge(observation)
        if self.world_size <= _REMEMBERED_RANKS:
            self.past, self.past_numbers = self.inputs.copy(), self.numbers
        self.numbers = []
        return verdict

    def _reset(self, world_size: int) -> None:
        self.world_size = world_size
        self.inputs = np.full((self.config.window_steps, world_size), -1, np.int64)
        self.gradients = self.inputs.copy()
        self.past, self.past_numbers = _no_prints(), []
        self.numbers, self.distinct, self.batch = [], False, 0.0
        self.losses = np.full(world_size, np.nan)
        self.common_moves, self.own_moves, self.agreements = [], [], []
        self.norm_groups, self.norm_samples, self.norm_since = (), 0, 0
        self.said, self.said_by, self.since, self.clean = (), "", 0, 0

    def _store(self, step: StepObservation) -> None:
        row = len(self.numbers)
        self.inputs[row] = row_of(step.input_fingerprint, step.ranks, self.world_size, -1)
        self.gradients[row] = row_of(step.gradient_fingerprint, step.ranks, self.world_size, -1)
        self.numbers.append(step.step)
        total = float(step.samples.sum()) * self.world_size / len(step.ranks)
        self.batch += (total - self.batch) / 16 if self.batch else total
        with np.errstate(divide="ignore", invalid="ignore"):
            losses = row_of(step.loss_sum / step.samples, step.ranks, self.world_size, math.nan)
            moves = losses - self.losses
        self.losses = losses
        if np.isfinite(moves).all():
            self.common_moves = [*self.common_moves[-63:], float(moves.mean())]
            self.own_moves = [*self.own_moves[-63:], float(moves.var(ddof=1))]

    def _judge(self, step: StepObservation) -> Verdict | None:
        """A window is full."""
        rows, ranks = common(self.inputs != -1)
        if len(rows) < self.config.window_steps // 2 or ranks.size < 2:
            # Inputs are not known: what was said by them stays, what norms and agreement say is judged with the samples.
            self.distinct = False
            return None
        alike = first_alike(self.inputs[np.ix_(rows, ranks)])
        groups = self._groups(rows, ranks, alike)
        self.distinct = not groups
        if groups:
            self.clean = 0
            if groups == self.said and self.said_by == INPUTS:
                return None
            return self._say(step.step, groups, INPUTS, *self._onset(groups))
        if self.said and self.said_by != AGREEMENT:
            return self._clean(step.step)
        return None

    def _groups(self, rows: NDArray[np.int64], ranks: NDArray[np.int64], alike: NDArray[np.int64]) -> Groups:
        """Ranks with the same inputs on nearly all rows."""
        own = np.arange(ranks.size)
        members: dict[int, list[int]] = {}
        for column in np.flatnonzero((alike != own).mean(axis=0) >= self.config.share).tolist():
            first, count = Counter(alike[:, column].tolist()).most_common(1)[0]
            if count < self.config.share * len(rows) or not self._changes(rows, int(ranks[first])):
                continue
            if not self._are_replicas(rows, int(ranks[first]), int(ranks[column])):
                continue
            members.setdefault(first, [first]).append(column)
        return tuple(tuple(int(ranks[each]) for each in group) for _, group in sorted(members.items()))

    def _onset(self, groups: Groups) -> tuple[int, float]:
        """The step from which on the groups have the same inputs, and its error."""
        inputs = np.concatenate([self.past, self.inputs]) if self.past.size else self.inputs
        numbers = [*self.past_numbers, *self.numbers]
        same = np.ones(len(numbers), np.bool_)
        for group in groups:
            same &= (inputs[:, group[1:]] == inputs[:, group[:1]]).mean(axis=1) >= self.config.share
        # Read from the end, the last step up to which nearly all are the same.
        lasting = np.cumsum(same[::-1]) / np.arange(1, same.size + 1)
        begin = same.size - 1 - int(np.flatnonzero((lasting >= self.config.share) & same[::-1])[-1])
        # One that reaches back to the first step known may have begun before it.
        return numbers[begin], 0.0 if begin or not self.past_numbers else float(self.config.window_steps)

    def _changes(self, rows: NDArray[np.int64], rank: int) -> bool:
        """Whether the inputs change from step to step: a constant tells nothing of the samples."""
        seen = self.inputs[rows, rank]
        return np.unique(seen).size >= max(4, len(rows) // 4)

    def _are_replicas(self, rows: NDArray[np.int64], one: int, other: int) -> bool:
        first, second = self.gradients[rows, one], self.gradients[rows, other]
        known = (first != -1) & (second != -1)
        return not known.any() or bool((first[known] == second[known]).mean() >= 0.5)

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        local = row_of(sample.local_gradient_square, sample.ranks, self.world_size, math.nan)
        known = np.isfinite(local) & (local > 0)
        if np.count_nonzero(known) < 2:
            return None
        self._note_agreement(sample, local, known)
        _, group, sizes = np.unique(local[known], return_inverse=True, return_counts=True)
        where = np.flatnonzero(known)
        shared = np.flatnonzero(sizes > 1)
        groups = tuple(sorted(tuple(where[group == each].tolist()) for each in shared))
        if groups and groups == self.norm_groups:
            self.norm_samples += 1
        else:
            self.norm_groups, self.norm_samples, self.norm_since = groups, 1, sample.step
        if groups and self.norm_samples >= self.config.samples and not self.distinct:
            self.clean = 0
            if groups == self.said or (self.said and self.said_by == INPUTS):
                return None
            return self._say(sample.step, groups, NORMS, self.norm_since, 0.0)
        if self.said_by == NORMS and not groups:
            return self._clean(sample.step)
        return self._suspect(sample)

    def _note_agreement(
        self, sample: SampledObservation, local: NDArray[np.float64], known: NDArray[np.bool_]
    ) -> None:
        # Clipping would make it look smaller: what the backward left is what was averaged.
        produced = sample.produced_gradient_square
        averaged = produced[np.isfinite(produced)]
        if not averaged.size:
            averaged = sample.reduced_gradient_square[np.isfinite(sample.reduced_gradient_square)]
        if known.all() and averaged.size:
            agreement = float(np.median(averaged)) / float(local.mean())
            self.agreements = [*self.agreements[1 - _KEPT_AGREEMENTS :], agreement]

    def _suspect(self, sample: SampledObservation) -> Verdict | None:
        """Without any equality: gradients that agree, and losses that move as one."""
        config = self.config
        if self.world_size < config.agreement_ranks or (self.said and self.said_by != AGREEMENT):
            return None
        correlation = self._correlation()
        enough = len(self.agreements) == _KEPT_AGREEMENTS and len(self.common_moves) == 64
        fits = (
            enough
            and float(np.quantile(self.agreements, 0.25)) > config.agreement
            # Beyond 1 the two were not measured on the same thing.
            and max(self.agreements) < 1.05
            and config.correlation < correlation < 1
        )
        if fits and not self.said:
            groups = (tuple(range(self.world_size)),)
            return self._say(
                sample.step, groups, AGREEMENT, self.numbers[0] if self.numbers else sample.step, 64.0
            )
        if self.said_by == AGREEMENT and enough and correlation < 0.9 * config.correlation:
            return self._clean(sample.step)
        return None

    def _correlation(self) -> float:
        """Between ranks, of the changes of their losses from step to step; 1 exactly is one loss logged by all."""
        if len(self.common_moves) < 16:
            return 0.0
        own = float(np.median(self.own_moves))
        if own <= 1e-8 * float(np.nanmean(self.losses)) ** 2:
            return 1.0
        shared = max(float(np.var(self.common_moves)) - own / self.world_size, 0.0)
        return shared / (shared + own)

    def _clean(self, step: int) -> Verdict | None:
        self.clean += 1
        if self.clean < self.config.resolve_windows:
            return None
        said, self.said, self.said_by, self.clean = self.said, (), "", 0
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            since_step=self.since,
            reason=f"All ranks have had samples of their own again, up to step {step:,}.",
            ranks=tuple(sorted(rank for group in said for rank in group)),
        )

    def _say(self, step: int, groups: Groups, how: str, since: int, error: float) -> Verdict:
        if not self.said:
            self.since = since
        self.said, self.said_by = groups, how
        agreement = float(np.median(self.agreements)) if self.agreements else None
        words = Words(how, groups, self.world_size, self.since, self.batch, self.norm_samples, agreement)
        correlation = self._correlation() if len(self.common_moves) >= 16 else None
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=error,
            severity=Severity.INFO if how == AGREEMENT else None,
            confidence={INPUTS: 0.98, NORMS: 0.97, AGREEMENT: 0.6}[how],
            score=float(self.world_size - words.distinct),
            threshold=0.0,
            reason=words.reason(),
            evidence={**words.evidence(), "loss_correlation": correlation},
            advice=words.advice(),
            ranks=tuple(sorted(rank for group in groups for rank in group)),
        )
