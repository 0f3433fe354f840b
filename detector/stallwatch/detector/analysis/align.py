"""Aligns the ranks of one attempt: per-rank batches in, run-level observations in step order out.

A step is complete when every expected rank has reported it or a later one (a rank's steps come in order, so what it has
passed over will not come any more). Ranks that fall behind by a whole window or, on a tick, by `late_seconds` are no longer
waited for until they have caught up. What comes out depends on what the ranks sent, not on how their batches interleaved.

What belongs to a step but is no step record has its place in that order: an event at step s comes before the observation of s
(it was noted before the step was finished), an evaluation after it, and a sampled record `sample_lag_steps` later, by when
agents that read their accelerator late have sent theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.analysis.pending import PendingSteps
from stallwatch.detector.core.inputs import (
    DirectionRecord,
    EvaluationPoint,
    Event,
    LossKind,
    Parallelism,
    RankBatch,
    SampledRecord,
)
from stallwatch.detector.core.observations import (
    AttemptObservation,
    EvaluationObservation,
    EventObservation,
    NamedLossObservation,
    StepObservation,
)
from stallwatch.detector.core.sampled import DirectionObservation, SampledObservation

_NEVER = np.iinfo(np.int64).min
_FOREVER = np.iinfo(np.int64).max
_MAX_SIDE_RECORDS = 4096
_NEARLY_LEVEL = 16


@dataclass(frozen=True, slots=True)
class AlignConfig:
    """How long ranks wait for each other."""

    late_seconds: float = 20.0
    """A rank that holds steps of the others back for longer is not waited for until it has caught up."""
    window_steps: int = 8192
    """At most this many steps are held back, whatever the time."""
    window_cells: int = 1 << 20
    """At most this many rank-steps are held back: bounds the memory of large worlds."""
    held_values: int = 1 << 22
    """At most this many numbers of sampled records are held back: those of the oldest steps give way, and count as late."""
    sample_lag_steps: int = 8
    """Sampled records are compared this many steps after their own, so that late readers are in."""

    def __post_init__(self) -> None:
        """Refuse limits that would hold nothing back or everything."""
        if not self.late_seconds > 0:
            raise ValueError("align.late_seconds must be above 0")
        if min(self.window_steps, self.window_cells, self.held_values) < 16:
            raise ValueError(
                "align.window_steps, align.window_cells and align.held_values must be at least 16"
            )
        if not 0 <= self.sample_lag_steps < self.window_steps:
            raise ValueError("align.sample_lag_steps must be at least 0 and below align.window_steps")

    def window(self, world_size: int) -> int:
        """Steps held back at most for this many ranks."""
        return max(16, min(self.window_steps, self.window_cells // max(world_size, 1)))


@dataclass(slots=True)
class Held:
    """A side record that waits for its step to pass, with the time its first part came."""

    since: float
    samples: dict[int, SampledRecord] = field(default_factory=dict)
    evaluations: list[tuple[int, EvaluationPoint]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    directions: dict[int, DirectionRecord] = field(default_factory=dict)
    named: dict[tuple[int, str], dict[int, tuple[float, float]]] = field(default_factory=dict)
    """Named losses: by kind and name, each rank's sum and samples."""
    values: int = 0
    """Numbers in `samples`."""

    @property
    def empty(self) -> bool:
        """Whether everything has been emitted."""
        return not (self.samples or self.evaluations or self.events or self.directions or self.named)


@dataclass(slots=True)
class Accepted:
    """What a batch brought: which of its steps were new."""

    fresh: int = 0
    duplicate: int = 0
    rows: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(slots=True)
class Aligner:
    """One attempt's alignment; see the module's docstring."""

    attempt: int = 0
    world_size: int = 1
    parallelism: Parallelism = Parallelism.UNSPECIFIED
    blocks: tuple[str, ...] = ()
    announced: bool = True
    """Whether the attempt's `AttemptObservation` has been emitted; the first attempt has none."""
    steps: PendingSteps = field(default_factory=PendingSteps)
    watermark: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Highest step each rank has reported."""
    expected: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Ranks that are waited for."""
    held: dict[int, Held] = field(default_factory=dict)
    """Side records by step."""
    held_values: int = 0
    """Numbers in the samples of all of them."""
    started_at: float = 0.0
    late_records: int = 0
    """Samples that came after their step had been compared."""
    missing_rank_steps: int = 0
    """Rank-steps that were not there when their step was emitted."""

    def resize(self, world_size: int) -> None:
        """Make room for this many ranks, all of them expected."""
        self.world_size = max(world_size, 1)
        missing = self.world_size - self.watermark.size
        if missing > 0:
            self.watermark = np.append(self.watermark, np.full(missing, _NEVER))
            self.expected = np.append(self.expected, np.ones(missing, np.bool_))
            self.steps.resize(self.world_size)

    def add(self, now: float, rank: int, batch: RankBatch, config: AlignConfig) -> Accepted:
        """Take what one rank sent; nothing is emitted yet, see `drain`."""
        accepted = Accepted()
        block = batch.steps
        if block is not None and block.step.size:
            accepted.rows = self.steps.insert(
                now, rank, block, int(self.watermark[rank]), config.window(self.world_size)
            )
            accepted.fresh = int(np.count_nonzero(accepted.rows))
            accepted.duplicate = int(block.step.size) - accepted.fresh
            last = int(block.step.max())
            if last > self.watermark[rank]:
                self.watermark[rank] = last
                # One that was left out is waited for again once it is nearly level with the others.
                if last >= self.steps.base - max(_NEARLY_LEVEL, 2 * block.step.size):
                    self.expected[rank] = True
        self._hold_all(now, rank, batch, config)
        return accepted

    def finish(self, rank: int) -> None:
        """The rank said goodbye: it has sent all it had."""
        if rank < self.watermark.size:
            self.watermark[rank] = _FOREVER

    def resume(self, rank: int) -> None:
        """The rank is back in this attempt after a goodbye."""
        if self.watermark[rank] == _FOREVER:
            self.watermark[rank] = self.steps.base - 1 if self.steps.emitted else _NEVER

    @property
    def over(self) -> bool:
        """Whether every rank said goodbye."""
        return bool(self.watermark.size) and bool(np.all(self.watermark[self.expected] == _FOREVER))

    def release_late(self, now: float, config: AlignConfig) -> None:
        """Stop waiting for ranks that have held the others back for too long."""
        oldest = self.steps.oldest_arrival()
        if oldest is not None and now - oldest > config.late_seconds:
            horizon = self.steps.latest_arrived_before(now - config.late_seconds)
            self.expected &= self.watermark >= horizon

    def shift(self, seconds: float) -> None:
        """Forget a span in which the detector was not attentive."""
        self.steps.shift(seconds)
        for held in self.held.values():
            held.since += seconds

    def drain(
        self, config: AlignConfig, now: float, *, everything: bool = False, floor: int | None = None
    ) -> Iterator[object]:
        """Emit what is complete, in step order; with `everything`, also what is not; with `floor`, all up to there."""
        top = self.steps.top
        waited = self.watermark[self.expected]
        upper = top if everything or not waited.size else min(top, int(waited.min()))
        upper = max(upper, top - config.window(self.world_size))
        if floor is not None:
            upper = max(upper, floor)
        lag = config.sample_lag_steps
        for observation in self.steps.emit(upper, self.attempt, self.world_size, self.parallelism):
            if not self.announced:
                self.announced = True
                yield AttemptObservation(
                    step=observation.step, attempt=self.attempt, world_size=self.world_size
                )
            if self.held:
                yield from self._side(observation.step, observation.step - 1, observation.step - 1 - lag)
            self.missing_rank_steps += self.world_size - len(observation.ranks)
            yield observation
        if self.held:
            if everything or self.over:
                yield from self._side(_FOREVER, _FOREVER, _FOREVER)
            else:
                if self.steps.emitted:
                    yield from self._side(self.steps.base - 1, self.steps.base - 2, self.steps.base - 1 - lag)
                yield from self._expired(now - config.late_seconds)

    def _hold_all(self, now: float, rank: int, batch: RankBatch, config: AlignConfig) -> None:
        """Put the side records of a batch where their steps are."""
        for sample in batch.samples:
            if not self._is_late(sample.step, config):
                self._hold_sample(now, rank, sample, config)
        for direction in batch.directions:
            if not self._is_late(direction.step, config):
                self._hold(now, direction.step).directions.setdefault(rank, direction)
        for named in batch.named_losses:
            key = (int(named.kind), named.name)
            for step, total, samples in zip(
                named.step.tolist(), named.loss_sum.tolist(), named.samples.tolist(), strict=True
            ):
                if not self._is_late(step, config):
                    self._hold(now, step).named.setdefault(key, {}).setdefault(rank, (total, samples))
        for point in batch.evaluations:
            self._hold(now, point.step).evaluations.append((rank, point))
        for event in batch.events:
            events = self._hold(now, event.step).events
            if event not in events:
                events.append(event)

    def _hold_sample(self, now: float, rank: int, sample: SampledRecord, config: AlignConfig) -> None:
        held = self._hold(now, sample.step)
        if rank in held.samples:
            return
        held.samples[rank] = sample
        held.values += (size := _size(sample))
        self.held_values += size
        while self.held_values > config.held_values:
            oldest = min(step for step, each in self.held.items() if each.samples)
            self.late_records += len(self.held[oldest].samples)
            self._let_go(self.held[oldest])

    def _let_go(self, held: Held) -> None:
        """The samples of a step are held no more."""
        self.held_values -= held.values
        held.samples, held.values = {}, 0

    def _is_late(self, step: int, config: AlignConfig) -> bool:
        """Whether side records of this step have been compared already; counts them."""
        late = self.steps.emitted and step <= self.steps.base - 1 - config.sample_lag_steps
        self.late_records += late
        return late

    def _hold(self, now: float, step: int) -> Held:
        held = self.held.get(step)
        if held is None:
            if len(self.held) >= _MAX_SIDE_RECORDS:
                self._let_go(self.held.pop(min(self.held)))
                self.late_records += 1
            held = self.held[step] = Held(since=now)
        return held

    def _expired(self, before: float) -> Iterator[object]:
        """Side records that no later step has pushed out for long: the run stands still, or has ended."""
        top = self.steps.top
        for step in sorted(
            step
            for step, held in self.held.items()
            if held.since < before and (step <= top or not self.steps.used)
        ):
            yield from self._side(step, step, step)

    def _side(self, event_upper: int, evaluation_upper: int, sample_upper: int) -> Iterator[object]:
        """Emit side records of each sort up to a step; the one for events is the highest."""
        if min(self.held) > event_upper:
            return
        for step in sorted(self.held):
            if step > event_upper:
                break
            held = self.held[step]
            for event in sorted(held.events, key=lambda e: (e.kind, e.text, e.automatic)):
                yield EventObservation(event.step, event.kind, event.text, event.automatic)
            held.events = []
            if step <= evaluation_upper and held.evaluations:
                yield _merge_evaluations(step, held.evaluations)
                held.evaluations = []
            if step <= sample_upper:
                if held.named:
                    yield from _merge_named(step, held.named)
                    held.named = {}
                if held.samples:
                    yield self._merge_samples(step, held.samples)
                    self._let_go(held)
                if held.directions:
                    yield _merge_directions(step, self.attempt, list(held.directions.values()))
                    held.directions = {}
            if held.empty:
                del self.held[step]

    def _merge_samples(self, step: int, samples: dict[int, SampledRecord]) -> SampledObservation:
        ranks = tuple(sorted(samples))
        records = [samples[rank] for rank in ranks]
        # Ranks whose model has other blocks than the run's, or that came before its names did, have no say by block.
        width = len(self.blocks) or max(len(row) for record in records for row in _by_block(record))
        gradient = [(r, s.gradient_fingerprints) for r, s in zip(ranks, records, strict=True)]
        parameter = [(r, s.parameter_fingerprints) for r, s in zip(ranks, records, strict=True)]
        gradient = [(r, prints) for r, prints in gradient if prints and len(prints) == width]
        parameter = [(r, prints) for r, prints in parameter if prints and len(prints) == width]

        def prints_of(rows: list[tuple[int, tuple[int, ...]]]) -> NDArray[np.uint64]:
            return np.array([prints for _, prints in rows], np.uint64).reshape(len(rows), width)

        return SampledObservation(
            step=step,
            attempt=self.attempt,
            world_size=self.world_size,
            ranks=ranks,
            parallelism=self.parallelism,
            blocks=self.blocks or tuple(f"block{i}" for i in range(width)),
            gradient_fingerprints=prints_of(gradient),
            gradient_ranks=tuple(r for r, _ in gradient),
            parameter_fingerprints=prints_of(parameter),
            parameter_ranks=tuple(r for r, _ in parameter),
            local_gradient_square=np.array([s.local_gradient_square for s in records]),
            reduced_gradient_square=np.array([s.reduced_gradient_square for s in records]),
            update_square=np.array([s.update_square for s in records]),
            parameter_square=np.array([s.parameter_square for s in records]),
            samples=np.array([s.samples for s in records]),
            optimizer_state_step=np.array([s.optimizer_state_step for s in records], np.int64),
            buffer_fingerprint=np.array([s.buffer_fingerprint for s in records], np.uint64),
            non_finite_blocks=tuple(_non_finite(s, width) for s in records),
            carried_gradient_square=np.array([s.carried_gradient_square for s in records]),
            produced_gradient_square=np.array([s.produced_gradient_square for s in records]),
            local_anchors=_anchors(records),
            produced_anchor=_rows([s.produced_anchor for s in records]),
            gradient_squares=_block_rows([s.gradient_squares for s in records], width),
            parameter_squares=_block_rows([s.parameter_squares for s in records], width),
            update_squares=_block_rows([s.update_squares for s in records], width),
            unchanged_share=np.array([s.unchanged_share for s in records]),
            gradient_zero_shares=_block_rows([s.gradient_zero_shares for s in records], width),
            gradient_zero_row_shares=_block_rows([s.gradient_zero_row_shares for s in records], width),
            weight_decay=records[0].weight_decay,
            momentum=records[0].momentum,
            decoupled_weight_decay=records[0].decoupled_weight_decay,
            saturated_shares=_mean_by_name([s.saturated_shares for s in records]),
            input_mean=np.array([s.input_mean for s in records]),
            input_deviation=np.array([s.input_deviation for s in records]),
        )


def _size(sample: SampledRecord) -> int:
    """About how many numbers a record holds."""
    return 32 + len(sample.local_anchors) + sum(map(len, _by_block(sample)))


def _by_block(sample: SampledRecord) -> tuple[Sequence[float], ...]:
    """What a record says of each block; empty rows where it does not."""
    return (
        sample.gradient_fingerprints,
        sample.parameter_fingerprints,
        sample.gradient_squares,
        sample.parameter_squares,
        sample.update_squares,
        sample.gradient_zero_shares,
        sample.gradient_zero_row_shares,
    )


def _mean_by_name(shares: list[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for each in shares for name in each})
    return {name: float(np.mean([each[name] for each in shares if name in each])) for name in names}


def _merge_directions(step: int, attempt: int, records: list[DirectionRecord]) -> DirectionObservation:
    def mean(values: list[float]) -> float:
        known = [value for value in values if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan

    return DirectionObservation(
        step=step,
        attempt=attempt,
        update_alignment=mean([record.update_alignment for record in records]),
        gradient_agreement=mean([record.gradient_agreement for record in records]),
    )


def _merge_named(
    step: int, named: dict[tuple[int, str], dict[int, tuple[float, float]]]
) -> Iterator[NamedLossObservation]:
    for (kind, name), by_rank in sorted(named.items()):
        # In the order of ranks, for sums of floats depend on it.
        parts = [by_rank[rank] for rank in sorted(by_rank)]
        samples = sum(count for _, count in parts)
        if samples > 0:
            total = sum(part for part, _ in parts)
            yield NamedLossObservation(step, LossKind(kind), name, total / samples, samples)


def _rows(rows: list[tuple[float, ...]]) -> NDArray[np.float64]:
    """Rows of one length as a matrix, those of ranks that sent none as NaN; empty when nobody sent any."""
    width = max(len(row) for row in rows)
    matrix = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = row
    return matrix if width else np.zeros(0)


def _block_rows(rows: list[tuple[float, ...]], width: int) -> NDArray[np.float64]:
    """Rows of `width` blocks as a matrix; those of another width are left out like those of ranks that sent none."""
    return _rows([row if len(row) == width else () for row in rows])


def _non_finite(record: SampledRecord, width: int) -> tuple[int, ...]:
    """Blocks with a NaN or an infinity; none of a record of another width, whose blocks are other ones."""
    if any(row and len(row) != width for row in _by_block(record)):
        return ()
    return tuple(block for block in record.non_finite_blocks if block < width)


def _anchors(records: list[SampledRecord]) -> NDArray[np.float64]:
    """Local anchors by rank, step (newest first) and element."""
    elements = max(record.anchor_elements for record in records)
    flat = _rows([record.local_anchors if record.anchor_elements == elements else () for record in records])
    return flat.reshape(len(records), -1, elements) if flat.size else flat


def _merge_evaluations(step: int, points: list[tuple[int, EvaluationPoint]]) -> EvaluationObservation:
    """The sample-weighted mean over the ranks that evaluated; the plain mean when none counted its samples."""
    ordered = [
        point for _, point in sorted(points, key=lambda entry: (entry[0], entry[1].loss, entry[1].samples))
    ]
    counted = all(point.samples > 0 for point in ordered)
    weights = np.array([point.samples if counted else 1.0 for point in ordered])
    names = sorted({name for point in ordered for name in point.metrics})
    metrics: dict[str, float] = {}
    for name in names:
        has = np.array([name in point.metrics for point in ordered])
        values = np.array([point.metrics.get(name, 0.0) for point in ordered])
        metrics[name] = float(np.sum(values[has] * weights[has]) / np.sum(weights[has]))
    loss = float(np.sum(np.array([point.loss for point in ordered]) * weights) / np.sum(weights))
    samples = float(sum(max(point.samples, 0.0) for point in ordered))
    return EvaluationObservation(step=step, loss=loss, samples=samples, metrics=metrics)


__all__ = ["Accepted", "AlignConfig", "Aligner", "StepObservation"]
