"""From the wire to the inputs of the analysis. What arrives here was validated, and numbers get no larger than statistics can bear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import (
    REJECTED,
    DirectionRecord,
    Dropped,
    EvaluationPoint,
    Event,
    LossKind,
    NamedLoss,
    Parallelism,
    Phase,
    RankBatch,
    RankHeartbeat,
    RankHello,
    SampledRecord,
    StepBlock,
)
from stallwatch.detector.core.magnitudes import (
    LARGEST_COUNT,
    LARGEST_SQUARE,
    number_within,
    sums_within,
    within,
)
from stallwatch.v1 import telemetry_pb2 as pb

_DROP_REASONS = {
    pb.DROP_REASON_BUFFER_FULL: "buffer_full",
    pb.DROP_REASON_INVALID_VALUE: "invalid_value",
    pb.DROP_REASON_INTERNAL_ERROR: "internal_error",
    pb.DROP_REASON_REJECTED: REJECTED,
    pb.DROP_REASON_TOO_OLD: "too_old",
    pb.DROP_REASON_TOO_LARGE: "too_large",
}


def decode_hello(hello: pb.Hello) -> RankHello:
    """Who speaks."""
    return RankHello(
        run=hello.run,
        rank=hello.rank,
        world_size=hello.world_size,
        incarnation=hello.incarnation,
        group=hello.group,
        local_rank=hello.local_rank,
        local_world_size=hello.local_world_size,
        node_rank=hello.node_rank,
        hostname=hello.hostname,
        pid=hello.pid,
        restart_count=hello.restart_count,
        launch_id=hello.launch_id,
        agent_version=hello.agent_version,
        torch_version=hello.torch_version,
        python_version=hello.python_version,
        backend=hello.backend,
        device=hello.device,
        parallelism=_known(Parallelism, hello.parallelism),
        model=hello.model,
        optimizer=hello.optimizer,
        parameters=hello.parameters,
        trainable_parameters=hello.trainable_parameters,
        first_step=hello.first_step,
        sample_period=hello.sample_period,
        dataset_size=hello.dataset_size,
        base_learning_rate=number_within(hello.base_learning_rate),
        base_batch_size=number_within(hello.base_batch_size, LARGEST_COUNT),
        blocks=tuple(hello.blocks),
        local_steps=hello.local_steps,
        total_steps=hello.total_steps,
        accumulation_steps=hello.accumulation_steps,
        block_elements=tuple(hello.block_elements),
    )


def decode_batch(batch: pb.Batch) -> RankBatch:
    """One batch, its columns as arrays."""
    return RankBatch(
        sequence=batch.sequence,
        steps=_steps(batch.steps) if batch.steps.step else None,
        samples=tuple(_sampled(record) for record in batch.samples),
        evaluations=tuple(_evaluation(point) for point in batch.evaluations),
        events=tuple(
            Event(happening.step, happening.kind, happening.text, happening.automatic)
            for happening in batch.events
        ),
        dropped=tuple(
            Dropped(
                _DROP_REASONS.get(dropped.reason, "unknown"),
                dropped.count,
                dropped.first_step,
                dropped.last_step,
            )
            for dropped in batch.dropped
        ),
        directions=tuple(
            DirectionRecord(
                record.step, number_within(record.update_alignment), number_within(record.gradient_agreement)
            )
            for record in batch.directions
        ),
        named_losses=tuple(_named_loss(named) for named in batch.named_losses),
    )


def _evaluation(point: pb.EvaluationPoint) -> EvaluationPoint:
    metrics = {name: number_within(value) for name, value in sorted(point.metrics.items())}
    return EvaluationPoint(
        point.step, number_within(point.loss), number_within(point.samples, LARGEST_COUNT), metrics
    )


def _named_loss(named: pb.NamedLoss) -> NamedLoss:
    samples = within(np.array(named.samples, dtype=np.float64), LARGEST_COUNT)
    return NamedLoss(
        named.name,
        _known(LossKind, named.kind),
        np.array(named.step, dtype=np.int64),
        sums_within(np.array(named.loss_sum, dtype=np.float64), samples),
        samples,
    )


def decode_heartbeat(beat: pb.Heartbeat) -> RankHeartbeat:
    """One sign of life."""
    agent = beat.agent
    return RankHeartbeat(
        phase=_known(Phase, beat.phase),
        phase_seconds=number_within(beat.phase_seconds),
        last_step=beat.last_step,
        ddp_iteration=beat.ddp_iteration,
        collectives=beat.collectives,
        stack=beat.stack,
        training_thread_seconds=agent.training_thread_seconds,
        background_seconds=agent.background_seconds,
        buffered_batches=agent.buffered_batches,
        buffered_bytes=agent.buffered_bytes,
        dropped_steps=agent.dropped_steps,
        reconnects=agent.reconnects,
        sample_period=agent.sample_period,
        sent_seconds=beat.sent_unix_seconds,
        cpu_wait_seconds=number_within(beat.cpu_wait_seconds)
        if beat.HasField("cpu_wait_seconds")
        else float("nan"),
        flight_record=beat.flight_record,
    )


def _steps(steps: pb.StepBatch) -> StepBlock:
    count = len(steps.step)

    def floats(column: Sequence[float]) -> NDArray[np.float64]:
        return np.array(column, dtype=np.float64) if column else np.full(count, np.nan)

    def durations(column: Sequence[float]) -> NDArray[np.float64]:
        return np.maximum(floats(column), 0.0)

    def integers(column: Sequence[int], unknown: int) -> NDArray[np.int64]:
        return np.array(column, dtype=np.int64) if column else np.full(count, unknown, dtype=np.int64)

    groups = steps.learning_rate_groups if steps.learning_rate else 0
    samples = within(floats(steps.samples), LARGEST_COUNT) if steps.samples else np.zeros(count)
    return StepBlock(
        step=np.array(steps.step, dtype=np.int64),
        loss_sum=sums_within(floats(steps.loss_sum), samples),
        samples=samples,
        micro_batches=integers(steps.micro_batches, -1),
        learning_rate=within(np.array(steps.learning_rate, dtype=np.float64)).reshape(count, groups),
        step_seconds=durations(steps.step_seconds),
        input_seconds=durations(steps.input_seconds),
        forward_seconds=durations(steps.forward_seconds),
        backward_seconds=durations(steps.backward_seconds),
        sync_seconds=durations(steps.sync_seconds),
        optimizer_seconds=durations(steps.optimizer_seconds),
        ddp_iteration=integers(steps.ddp_iteration, -1),
        collectives=integers(steps.collectives, -1),
        gradient_fingerprint=integers(steps.gradient_fingerprint, -1),
        optimizer_steps=integers(steps.optimizer_steps, -1),
        produced_fingerprint=integers(steps.produced_fingerprint, -1),
        gradient_lag=integers(steps.gradient_lag, -1),
        gradient_scale=floats(steps.gradient_scale),
        input_fingerprint=integers(steps.input_fingerprint, -1),
        parameters_before=integers(steps.parameters_before, -1),
        parameters_after=integers(steps.parameters_after, -1),
    )


def _sampled(record: pb.SampledRecord) -> SampledRecord:
    return SampledRecord(
        step=record.step,
        local_gradient_square=number_within(record.local_gradient_square, LARGEST_SQUARE),
        reduced_gradient_square=number_within(record.reduced_gradient_square, LARGEST_SQUARE),
        update_square=number_within(record.update_square, LARGEST_SQUARE),
        parameter_square=number_within(record.parameter_square, LARGEST_SQUARE),
        gradient_fingerprints=tuple(record.gradient_fingerprints),
        parameter_fingerprints=tuple(record.parameter_fingerprints),
        buffer_fingerprint=record.buffer_fingerprint,
        non_finite_blocks=tuple(record.non_finite_blocks),
        optimizer_state_step=record.optimizer_state_step,
        samples=number_within(record.samples, LARGEST_COUNT),
        carried_gradient_square=number_within(record.carried_gradient_square, LARGEST_SQUARE),
        # Agents of before this field leave it 0.
        produced_gradient_square=number_within(record.produced_gradient_square, LARGEST_SQUARE) or math.nan,
        anchor_elements=record.anchor_elements,
        local_anchors=tuple(record.local_anchors),
        produced_anchor=tuple(record.produced_anchor),
        gradient_squares=tuple(record.gradient_squares),
        parameter_squares=tuple(record.parameter_squares),
        update_squares=tuple(record.update_squares),
        unchanged_share=number_within(record.unchanged_share),
        gradient_zero_shares=tuple(record.gradient_zero_shares),
        gradient_zero_row_shares=tuple(record.gradient_zero_row_shares),
        weight_decay=number_within(record.weight_decay),
        momentum=number_within(record.momentum),
        decoupled_weight_decay=record.decoupled_weight_decay,
        saturated_shares={
            name: number_within(share) for name, share in sorted(record.saturated_shares.items())
        },
        input_mean=number_within(record.input_mean),
        input_deviation=number_within(record.input_deviation),
    )


def _known(kinds: Any, value: int) -> Any:
    """The member of that number; an agent of a newer minor version may send one that does not exist here."""
    return kinds(value) if value in {kind.value for kind in kinds} else kinds(0)
