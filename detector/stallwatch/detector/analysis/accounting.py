"""What is remembered of steps, samples and findings for the read models."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.analysis.state import RunState
from stallwatch.detector.analysis.view import norm
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.inputs import REJECTED, Dropped, StepBlock
from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.scaling import NoiseScaleObservation
from stallwatch.detector.core.views import STEP_PHASES, STEP_SECONDS_BUCKETS

STANDSTILL = frozenset({"hang", "rank_lost"})
"""Findings whose cost is wall time, for no steps pass."""
_BUCKETS = np.array(STEP_SECONDS_BUCKETS)
_BATCH_SIZES = 32
_STEP_IS_THERE = frozenset({"invalid_value"})
"""Reasons for which single values are dropped, and no steps."""

_LARGEST_STEP = 2**62


def count_steps(state: RunState, now: float, rank: int, steps: StepBlock, fresh: NDArray[np.bool_]) -> None:
    """Count a rank's new steps, and remember the latest of their numbers."""
    count = int(np.count_nonzero(fresh))
    if not count:
        return
    table = state.ranks
    state.steps_received += count
    table.steps[rank] += count
    numbers = steps.step[fresh]
    lowest, highest = int(numbers.min()), int(numbers.max())
    _note_gaps(state, rank, np.sort(numbers))
    known = int(table.first_step[rank])
    table.first_step[rank] = lowest if known < 0 else min(lowest, known)
    table.last_received[rank] = max(highest, int(table.last_received[rank]))
    table.move(now, rank, highest)
    last = int(np.flatnonzero(fresh)[-1])
    if steps.samples[last] > 0:
        table.loss[rank] = steps.loss_sum[last] / steps.samples[last]
    table.step_seconds[rank] = _typical(steps.step_seconds, fresh)
    for phase in STEP_PHASES:
        seconds = getattr(steps, f"{phase}_seconds")
        getattr(table, f"{phase}_seconds")[rank] = _typical(seconds, fresh)
        seconds = seconds[fresh] if seconds.size == fresh.size else seconds
        seconds = seconds[seconds >= 0]
        if seconds.size:
            bins = np.searchsorted(_BUCKETS, seconds)
            state.phase_counts[phase] += np.bincount(bins, minlength=len(STEP_SECONDS_BUCKETS) + 1)
            state.phase_seconds[phase] += float(seconds.sum())


def note_drops(state: RunState, rank: int, dropped: Iterable[Dropped], *, by_gateway: bool) -> None:
    """Count what was dropped, once: of a batch that the gateway rejected, gateway and agent both say so."""
    table = state.ranks
    for each in dropped:
        count = each.count
        if each.reason == REJECTED:
            if by_gateway:
                table.rejected_steps[rank] += count
            else:
                known = min(count, int(table.rejected_steps[rank]))
                table.rejected_steps[rank] -= known
                count -= known
        if count:
            state.dropped[each.reason] = state.dropped.get(each.reason, 0) + count
            table.dropped_steps[rank] += count
        if each.count and each.reason not in _STEP_IS_THERE:
            reached = max(int(table.next_step[rank]) - 1, int(table.last_received[rank]))
            state.gaps.dropped(rank, each.reason, each.first_step, each.last_step, reached)


def note_late(state: RunState, rank: int, steps: StepBlock, fresh: NDArray[np.bool_]) -> None:
    """Steps that came after they had been analysed without this rank."""
    pending = state.aligner.steps
    if pending.emitted:
        late = steps.step[fresh & (steps.step < pending.base)]
        if late.size:
            state.gaps.late(rank, int(late.min()), int(late.max()), int(late.size))


def note_end(state: RunState, rank: int, last_step: int) -> None:
    """The rank has ended after this step: what has not come of it will not come."""
    # The step after it is noted, and must still be a number of 64 bits.
    last_step = min(last_step, _LARGEST_STEP)
    expected = int(state.ranks.next_step[rank])
    if 0 <= expected <= last_step:
        state.gaps.missing(rank, expected, last_step)
        state.ranks.next_step[rank] = last_step + 1


def _note_gaps(state: RunState, rank: int, numbers: NDArray[np.int64]) -> None:
    """New steps of a rank, ascending: those between that it has passed over are missing."""
    table = state.ranks
    expected = int(table.next_step[rank])
    if expected < 0:
        # A process that never introduced itself.
        expected = int(table.last_received[rank]) + 1 or int(numbers[0])
    before = np.concatenate(([expected - 1], numbers[:-1]))
    for place in np.flatnonzero(numbers > np.maximum(before, expected - 1) + 1).tolist():
        first = max(int(before[place]) + 1, expected)
        state.gaps.missing(rank, first, int(numbers[place]) - 1)
    table.next_step[rank] = max(expected, int(numbers[-1]) + 1)


def remember_step(state: RunState, now: float, observation: StepObservation) -> None:
    """One aligned step: its numbers, and what it cost the findings that are firing."""
    state.step = observation.step
    state.series.step(observation)
    seconds = observation.step_seconds
    typical = float(seconds[seconds.size // 2])
    typical = typical if typical > 0 else 0.0
    state.clock.add(observation.step, typical)
    if state.findings.active:
        state.findings.accrue(typical * observation.world_size, without=STANDSTILL)
    samples = float(observation.samples.sum())
    if samples > 0:
        state.batch_sizes.append(samples * observation.world_size / len(observation.ranks))
        if len(state.batch_sizes) > _BATCH_SIZES:
            del state.batch_sizes[0]
    if observation.learning_rates:
        state.learning_rate = observation.learning_rates[0]
    state.loss = observation.mean_loss()
    if state.findings.withheld:
        for finding in state.findings.step(now, observation.step):
            charge_onset(state, finding)


def remember_sample(state: RunState, observation: SampledObservation) -> None:
    """One sampled step: its norms."""
    state.series.sampled(observation)
    state.gradient_norm_local = norm(observation.local_gradient_square)
    state.gradient_norm_reduced = norm(observation.reduced_gradient_square)


def remember_noise_scale(state: RunState, observation: NoiseScaleObservation) -> None:
    """What gradients say about the batch."""
    state.noise_scale = observation
    if observation.scale is not None:
        state.series.add("gradient_noise_scale", observation.step, observation.scale)


def charge_onset(state: RunState, finding: Finding) -> None:
    """What a finding has cost between its onset and the moment it was called."""
    stalled = state.findings.stalled_seconds
    if finding.kind in STANDSTILL:
        table = state.ranks
        live = table.attached & ~table.finished
        if live.any():
            waited = max(state.now - float(table.moved_at[live].max()), 0.0)
            stalled[finding.kind] += waited * int(np.count_nonzero(live))
    else:
        stalled[finding.kind] += state.clock.since(finding.since_step) * state.aligner.world_size


def _typical(column: NDArray[np.float64], fresh: NDArray[np.bool_]) -> float:
    """The median of a rank's new values."""
    if column.size != fresh.size:
        return float("nan")
    values = np.sort(column[fresh])
    return float(values[values.size // 2])
