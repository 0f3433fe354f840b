"""Checks what agents send, once, at the edge. Each error names the field and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.errors import InvalidInputError
from stallwatch.detector.ingest import limits
from stallwatch.v1 import telemetry_pb2 as pb

LARGEST_STEP = 2**63 - 1
RECORDS_AT_ONCE = 64
"""Checked in one part of `batch_parts`."""

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*\Z")
_EVENT_KIND = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_TEXTS = (
    "hostname",
    "launch_id",
    "agent_version",
    "torch_version",
    "python_version",
    "backend",
    "device",
    "model",
    "optimizer",
)
_STEP_COLUMNS = (
    "loss_sum",
    "samples",
    "micro_batches",
    "step_seconds",
    "input_seconds",
    "forward_seconds",
    "backward_seconds",
    "sync_seconds",
    "optimizer_seconds",
    "ddp_iteration",
    "collectives",
    "gradient_fingerprint",
    "optimizer_steps",
    "produced_fingerprint",
    "gradient_lag",
    "gradient_scale",
    "input_fingerprint",
    "parameters_before",
    "parameters_after",
)
_DURATIONS = tuple(name for name in _STEP_COLUMNS if name.endswith("_seconds"))
_SQUARES = (
    "local_gradient_square",
    "reduced_gradient_square",
    "update_square",
    "parameter_square",
    "carried_gradient_square",
    "produced_gradient_square",
    "unchanged_share",
)
_BLOCK_SQUARES = ("gradient_squares", "parameter_squares", "update_squares")
_BY_BLOCK = (
    "gradient_fingerprints",
    "parameter_fingerprints",
    "gradient_squares",
    "parameter_squares",
    "update_squares",
    "gradient_zero_shares",
    "gradient_zero_row_shares",
)


def check_hello(hello: pb.Hello) -> None:
    """Raise `InvalidInputError` unless the identity is one that can be watched."""
    check_run_name("hello.run", hello.run)
    if hello.group:
        check_run_name("hello.group", hello.group)
    if not 1 <= hello.world_size <= limits.MAX_WORLD_SIZE:
        raise InvalidInputError(
            "hello.world_size",
            f"hello.world_size is {hello.world_size}: it must be 1 to {limits.MAX_WORLD_SIZE}",
        )
    if hello.rank >= hello.world_size:
        raise InvalidInputError(
            "hello.rank",
            f"hello.rank is {hello.rank} in a world of {hello.world_size}: "
            f"ranks are 0 to {hello.world_size - 1}",
        )
    if hello.incarnation == 0:
        raise InvalidInputError(
            "hello.incarnation",
            "hello.incarnation is 0: it must be the start of the process in Unix nanoseconds",
        )
    for name in _TEXTS:
        _check_length(f"hello.{name}", getattr(hello, name), limits.MAX_TEXT_CHARACTERS)
    _check_count("hello.blocks", len(hello.blocks), limits.MAX_BLOCKS, "blocks")
    if len(hello.block_elements) not in (0, len(hello.blocks)):
        raise InvalidInputError(
            "hello.block_elements",
            f"hello.block_elements has {len(hello.block_elements)} values for {len(hello.blocks)} blocks: "
            "give one a block, or none",
        )
    for index, block in enumerate(hello.blocks):
        _check_length(f"hello.blocks[{index}]", block, limits.MAX_TEXT_CHARACTERS)
    for name in ("base_learning_rate", "base_batch_size"):
        _check_amount(f"hello.{name}", getattr(hello, name))
    for name in ("first_step", "total_steps", "dataset_size", "parameters", "trainable_parameters"):
        _check_integer(f"hello.{name}", getattr(hello, name))


def check_run_name(field: str, name: str) -> None:
    """Raise `InvalidInputError` unless `name` may name a run or a group of runs."""
    if not 1 <= len(name) <= limits.MAX_RUN_CHARACTERS:
        raise InvalidInputError(
            field, f"{field} has {len(name)} characters: it must have 1 to {limits.MAX_RUN_CHARACTERS}"
        )
    if not _RUN_NAME.match(name):
        raise InvalidInputError(
            field,
            f"{field} is {name!r}: it must be of letters, digits, '.', '_', '-', '/' and ':', "
            "and start with a letter or digit",
        )


def check_batch(batch: pb.Batch, blocks: int) -> None:
    """Raise `InvalidInputError` for the first thing in the batch that breaks the protocol.

    `blocks` is how many block names the `Hello` of the stream declared.
    """
    for _part in batch_parts(batch, blocks):
        pass


def batch_parts(batch: pb.Batch, blocks: int) -> Iterator[None]:
    """`check_batch` in parts, none of which takes long: 4,096 records in one go would hold everybody up."""
    if batch.sequence == 0:
        raise InvalidInputError("sequence", "sequence is 0: batches are counted from 1")
    if batch.sequence > LARGEST_STEP:
        raise InvalidInputError("sequence", f"sequence is {batch.sequence}: it must be below 2^63")
    if batch.HasField("steps"):
        yield from _check_steps(batch.steps)
    _check_count("samples", len(batch.samples), limits.MAX_SAMPLED_RECORDS, "sampled records")
    for index, record in enumerate(batch.samples):
        _check_sampled(f"samples[{index}]", record, blocks)
        if index % RECORDS_AT_ONCE == 0:
            yield
    yield from _check_side_records(batch)


def _check_side_records(batch: pb.Batch) -> Iterator[None]:
    _check_count("evaluations", len(batch.evaluations), limits.MAX_EVALUATIONS, "evaluations")
    for index, evaluation in enumerate(batch.evaluations):
        _check_evaluation(f"evaluations[{index}]", evaluation)
        if index % RECORDS_AT_ONCE == 0:
            yield
    _check_count("named_losses", len(batch.named_losses), limits.MAX_NAMED_LOSSES, "named losses")
    for index, named in enumerate(batch.named_losses):
        _check_named_loss(f"named_losses[{index}]", named)
        yield
    _check_count("directions", len(batch.directions), limits.MAX_SAMPLED_RECORDS, "records")
    for index, direction in enumerate(batch.directions):
        _check_integer(f"directions[{index}].step", direction.step)
        if index % RECORDS_AT_ONCE == 0:
            yield
    _check_count("events", len(batch.events), limits.MAX_EVENTS, "events")
    for index, happening in enumerate(batch.events):
        _check_event(f"events[{index}]", happening)
        if index % RECORDS_AT_ONCE == 0:
            yield
    _check_count("dropped", len(batch.dropped), limits.MAX_DROPPED, "entries")
    for index, dropped in enumerate(batch.dropped):
        for name in ("count", "first_step", "last_step"):
            _check_integer(f"dropped[{index}].{name}", getattr(dropped, name))


def check_heartbeat(beat: pb.Heartbeat) -> None:
    """Raise `InvalidInputError` unless the heartbeat can be used."""
    _check_amount("heartbeat.phase_seconds", beat.phase_seconds)
    if len(beat.stack) > limits.MAX_STACK_CHARACTERS:
        raise InvalidInputError(
            "heartbeat.stack",
            f"heartbeat.stack has {len(beat.stack)} characters: send the innermost "
            f"{limits.MAX_STACK_CHARACTERS}",
        )
    if len(beat.flight_record) > limits.MAX_FLIGHT_RECORD_CHARACTERS:
        raise InvalidInputError(
            "heartbeat.flight_record",
            f"heartbeat.flight_record has {len(beat.flight_record)} characters: send the latest entries, at most "
            f"{limits.MAX_FLIGHT_RECORD_CHARACTERS}",
        )
    if beat.HasField("cpu_wait_seconds") and not np.isnan(beat.cpu_wait_seconds):
        _check_amount("heartbeat.cpu_wait_seconds", beat.cpu_wait_seconds)


def _check_steps(steps: pb.StepBatch) -> Iterator[None]:
    count = len(steps.step)
    _check_count("steps.step", count, limits.MAX_BATCH_STEPS, "steps")
    for name in _STEP_COLUMNS:
        length = len(getattr(steps, name))
        if length not in (0, count):
            raise InvalidInputError(
                f"steps.{name}",
                f"steps.{name} has {length} values for {count} steps: give one a step, or none at all",
            )
    _check_learning_rates(steps, count)
    _check_rising("steps.step", steps.step)
    yield
    _check_column("steps.samples", steps.samples, "finite and not negative", least=0.0)
    for name in _DURATIONS:
        _check_column(
            f"steps.{name}",
            getattr(steps, name),
            "finite and not negative, or NaN when not measured",
            least=-limits.CLOCK_SLACK_SECONDS,
            nan=True,
        )
        yield
    for name in ("ddp_iteration", "collectives"):
        _check_column(
            f"steps.{name}", getattr(steps, name), "-1 when unknown, otherwise not negative", least=-1
        )


def _check_rising(field: str, column: Sequence[int]) -> None:
    if not column:
        return
    step = np.asarray(column, dtype=np.uint64)
    if int(step.max()) > LARGEST_STEP:
        index = int(step.argmax())
        raise InvalidInputError(
            f"{field}[{index}]", f"{field}[{index}] is {step[index]}: it must be below 2^63"
        )
    backwards = np.flatnonzero(step[1:] <= step[:-1])
    if backwards.size:
        index = int(backwards[0]) + 1
        raise InvalidInputError(
            f"{field}[{index}]",
            f"{field}[{index}] is {step[index]} after {step[index - 1]}: the steps of a batch must go up",
        )


def _check_named_loss(field: str, named: pb.NamedLoss) -> None:
    if not named.name:
        raise InvalidInputError(f"{field}.name", f"{field}.name is empty: it must say which loss this is")
    _check_length(f"{field}.name", named.name, limits.MAX_LOSS_NAME_CHARACTERS)
    count = len(named.step)
    _check_count(f"{field}.step", count, limits.MAX_BATCH_STEPS, "steps")
    for name in ("loss_sum", "samples"):
        length = len(getattr(named, name))
        if length != count:
            raise InvalidInputError(
                f"{field}.{name}", f"{field}.{name} has {length} values for {count} steps: give one a step"
            )
    _check_rising(f"{field}.step", named.step)
    _check_column(f"{field}.samples", named.samples, "finite and not negative", least=0.0)


def _check_learning_rates(steps: pb.StepBatch, count: int) -> None:
    groups, given = steps.learning_rate_groups, len(steps.learning_rate)
    _check_count(
        "steps.learning_rate_groups", groups, limits.MAX_LEARNING_RATE_GROUPS, "learning rate groups"
    )
    if given and given != groups * count:
        raise InvalidInputError(
            "steps.learning_rate",
            f"steps.learning_rate has {given} values for {count} steps of {groups} groups: give {groups * count}",
        )
    _check_column("steps.learning_rate", steps.learning_rate, "finite, or NaN when unknown", nan=True)


def _check_column(
    field: str, column: Sequence[float], expected: str, *, least: float = -np.inf, nan: bool = False
) -> None:
    if not column:
        return
    values: NDArray[np.float64] = np.asarray(column, dtype=np.float64)
    good = np.isfinite(values) & (values >= least)
    if nan:
        good |= np.isnan(values)
    if good.all():
        return
    index = int(np.flatnonzero(~good)[0])
    raise InvalidInputError(
        f"{field}[{index}]",
        f"{field}[{index}] is {_number(column[index])}: {field.rsplit('.', maxsplit=1)[-1]} must be {expected}",
    )


def _check_sampled(field: str, record: pb.SampledRecord, blocks: int) -> None:
    _check_integer(f"{field}.step", record.step)
    for name in _SQUARES:
        # A gradient that holds an infinity has a norm that is none: that is a finding, not an error.
        if getattr(record, name) < 0:
            raise InvalidInputError(
                f"{field}.{name}", f"{field}.{name} is {getattr(record, name)}: a square is not negative"
            )
    _check_amount(f"{field}.samples", record.samples)
    _check_anchors(field, record)
    _check_count(
        f"{field}.saturated_shares", len(record.saturated_shares), limits.MAX_SATURATED_MODULES, "modules"
    )
    for name in record.saturated_shares:
        _check_length(f"{field}.saturated_shares", name, limits.MAX_TEXT_CHARACTERS)
    for name in _BY_BLOCK:
        length = len(getattr(record, name))
        if length not in (0, blocks):
            raise InvalidInputError(
                f"{field}.{name}",
                f"{field}.{name} has {length} values, and hello.blocks {blocks} names: give one a block, or none",
            )
    for name in _BLOCK_SQUARES:
        values = np.asarray(getattr(record, name), dtype=np.float64)
        if (negative := np.flatnonzero(values < 0)).size:
            index = int(negative[0])
            raise InvalidInputError(
                f"{field}.{name}[{index}]",
                f"{field}.{name}[{index}] is {values[index]}: a square is not negative",
            )
    for index, block in enumerate(record.non_finite_blocks):
        if block >= blocks:
            raise InvalidInputError(
                f"{field}.non_finite_blocks[{index}]",
                f"{field}.non_finite_blocks[{index}] is {block}, and hello.blocks has {blocks} names",
            )


def _check_anchors(field: str, record: pb.SampledRecord) -> None:
    elements = record.anchor_elements
    _check_count(f"{field}.anchor_elements", elements, limits.MAX_ANCHOR_ELEMENTS, "elements")
    _check_count(f"{field}.local_anchors", len(record.local_anchors), limits.MAX_ANCHORS * elements, "values")
    if elements and len(record.local_anchors) % elements:
        raise InvalidInputError(
            f"{field}.local_anchors",
            f"{field}.local_anchors has {len(record.local_anchors)} values: give {elements} a step, as anchor_elements says",
        )
    if len(record.produced_anchor) not in (0, elements):
        raise InvalidInputError(
            f"{field}.produced_anchor",
            f"{field}.produced_anchor has {len(record.produced_anchor)} values: give {elements}, as anchor_elements says",
        )


def _check_evaluation(field: str, evaluation: pb.EvaluationPoint) -> None:
    _check_integer(f"{field}.step", evaluation.step)
    _check_amount(f"{field}.samples", evaluation.samples)
    _check_count(f"{field}.metrics", len(evaluation.metrics), limits.MAX_EVALUATION_METRICS, "metrics")
    for name in evaluation.metrics:
        _check_length(f"{field}.metrics", name, limits.MAX_TEXT_CHARACTERS)


def _check_event(field: str, happening: pb.Event) -> None:
    _check_integer(f"{field}.step", happening.step)
    _check_length(f"{field}.kind", happening.kind, limits.MAX_EVENT_KIND_CHARACTERS)
    if not _EVENT_KIND.match(happening.kind):
        raise InvalidInputError(
            f"{field}.kind",
            f"{field}.kind is {happening.kind!r}: it must be of lower-case letters, digits, '_', '.' and '-'",
        )
    _check_length(f"{field}.text", happening.text, limits.MAX_EVENT_TEXT_CHARACTERS)


def _check_amount(field: str, value: float) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise InvalidInputError(field, f"{field} is {_number(value)}: it must be finite and not negative")


def _check_integer(field: str, value: int) -> None:
    if value > LARGEST_STEP:
        raise InvalidInputError(field, f"{field} is {value}: it must be below 2^63")


def _check_length(field: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidInputError(field, f"{field} has {len(text)} characters: at most {most} are allowed")


def _check_count(field: str, count: int, most: int, things: str) -> None:
    if count > most:
        raise InvalidInputError(field, f"{field} has {count} {things}: at most {most} are allowed")


def _number(value: float) -> str:
    return "NaN" if value != value else str(value)  # noqa: PLR0124  this is how NaN is told
