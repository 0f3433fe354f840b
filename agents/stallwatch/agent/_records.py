"""What is told of one optimizer step, and how records become the columns of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stallwatch.agent._probe.inputs import checksum
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.anchor import AnchorReadings
    from stallwatch.agent._probe.directions import DirectionReadings
    from stallwatch.agent._probe.readings import SampledReadings

NAN = math.nan

# What a record takes in memory until it is in a batch, and on the wire after it, in bytes: estimates on the high side, for
# counting as exactly would cost more than the record.
_RECORD_BYTES, _INPUT_BYTES, _LOSS_BYTES, _SAMPLED_BYTES, _PARAMETER_BYTES = 2560, 384, 160, 16_384, 160
_WIRE_BYTES, _WIRE_LOSS_BYTES, _WIRE_BLOCK_BYTES = 160, 24, 48

MAX_MICRO_BATCHES = 4096
"""Of one step that are kept at least, and twice as many at most: without a step that the agent sees, it must not gather for ever."""


class Losses:
    """Losses logged for one step. Values on a GPU stay pinned host tensors until the copy has arrived."""

    __slots__ = ("components", "groups", "samples", "values")

    def __init__(self) -> None:
        self.values: list[tuple[float | torch.Tensor, float]] = []
        self.samples = 0.0
        self.groups: list[tuple[str, float | torch.Tensor, float]] = []
        self.components: list[tuple[str, float | torch.Tensor, float]] = []

    def add(self, value: float | torch.Tensor, samples: float) -> None:
        """Adds the mean loss of a micro-batch."""
        self.values.append((value, samples))
        self.samples += samples
        if len(self.values) > 2 * MAX_MICRO_BATCHES:
            del self.values[:MAX_MICRO_BATCHES]
            self.samples = sum(samples for _, samples in self.values)

    def add_named(
        self,
        where: list[tuple[str, float | torch.Tensor, float]],
        name: str,
        value: float | torch.Tensor,
        samples: float,
    ) -> None:
        """Adds to `groups` or `components`."""
        where.append((name, value, samples))
        if len(where) > 2 * MAX_MICRO_BATCHES:
            del where[:MAX_MICRO_BATCHES]

    def entries(self) -> int:
        """Numbers held."""
        return len(self.values) + len(self.groups) + len(self.components)

    def sum(self) -> float:
        """Mean losses times samples, summed; NaN when none was logged."""
        return sum(float(value) * samples for value, samples in self.values) if self.values else NAN


@dataclass(slots=True)
class StepRecord:
    """One optimizer step of this rank."""

    step: int
    losses: Losses
    micro_batches: int
    learning_rates: tuple[float | torch.Tensor, ...]
    seconds: tuple[float, float, float, float, float, float]
    """Step, input, forward, backward, sync, optimizer."""
    ddp_iteration: int
    collectives: int
    gradient_fingerprint: int | torch.Tensor
    optimizer_steps: int
    produced_fingerprint: int | torch.Tensor = -1
    parameters_before: int | torch.Tensor = -1
    parameters_after: int | torch.Tensor = -1
    anchor: AnchorReadings | None = None
    inputs: list[bytes | torch.Tensor] = field(default_factory=list)
    gradient_lag: int = -1
    """Age of the applied gradient in steps, and its factor to the produced one: made of `anchor` off the training thread."""
    gradient_scale: float = NAN
    sampled: SampledReadings | None = None
    direction: DirectionReadings | None = None
    arrived: Any = None
    """CUDA event after the last asynchronous copy of this record; None when nothing is awaited."""
    clock: Any = None
    """CUDA events that replace the phase seconds, once they have passed."""

    def memory_bytes(self) -> int:
        """About what the record takes in memory."""
        size = _RECORD_BYTES + _INPUT_BYTES * len(self.inputs) + _LOSS_BYTES * self.losses.entries()
        anchor = self.anchor
        if anchor is not None:
            size += _LOSS_BYTES * (len(anchor.local) + len(anchor.carried or ()))
        if self.sampled is not None:
            size += _SAMPLED_BYTES + _PARAMETER_BYTES * len(self.sampled.blocks)
        return size + 32 * len(self.learning_rates)

    def wire_bytes(self) -> int:
        """About what the record takes in a message."""
        losses = self.losses
        size = _WIRE_BYTES + _WIRE_LOSS_BYTES * (len(losses.groups) + len(losses.components))
        if self.sampled is not None:
            size += 1024 + _WIRE_BLOCK_BYTES * self.sampled.block_count
        return size + 8 * len(self.learning_rates)

    def ready(self) -> bool:
        """Whether all values have reached the host."""
        return self.arrived is None or bool(self.arrived.query())


@dataclass(slots=True)
class Contents:
    """What has gathered for the next batch."""

    steps: list[StepRecord] = field(default_factory=list)
    evaluations: list[wire.EvaluationPoint] = field(default_factory=list)
    events: list[wire.Event] = field(default_factory=list)
    dropped: list[wire.Dropped] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.steps or self.evaluations or self.events or self.dropped)

    def all_steps(self) -> list[int]:
        """The step of each thing."""
        return [
            *(each.step for each in self.steps),
            *(each.step for each in self.evaluations),
            *(each.step for each in self.events),
        ]

    def halves(self) -> tuple[Contents, Contents] | None:
        """The same in two parts, the steps apart from the rest first; None when it is one thing."""
        items: list[StepRecord | wire.EvaluationPoint | wire.Event] = [
            *self.steps,
            *self.evaluations,
            *self.events,
        ]
        if len(items) < 2:
            return None
        steps = len(self.steps)
        middle = steps if 0 < steps < len(items) else len(items) // 2
        first, second = _contents(items[:middle]), _contents(items[middle:])
        first.dropped = self.dropped
        return first, second


def _contents(items: Sequence[StepRecord | wire.EvaluationPoint | wire.Event]) -> Contents:
    return Contents(
        steps=[each for each in items if isinstance(each, StepRecord)],
        evaluations=[each for each in items if isinstance(each, wire.EvaluationPoint)],
        events=[each for each in items if isinstance(each, wire.Event)],
    )


def fingerprint_value(value: int | torch.Tensor) -> int:
    """The signed integer that is sent; -1 is kept for "none taken"."""
    if isinstance(value, int):
        return value
    number = int(value)
    return -2 if number == -1 else number


def build_batch(sequence: int, now: float, contents: Contents) -> wire.Batch:
    """Puts records into one numbered batch."""
    return wire.Batch(
        sequence=sequence,
        created_unix_seconds=now,
        steps=_columns(contents.steps) if contents.steps else None,
        samples=[each.sampled.message(each) for each in contents.steps if each.sampled is not None],
        evaluations=contents.evaluations,
        events=contents.events,
        dropped=contents.dropped,
        named_losses=_named_losses(contents.steps),
        directions=[
            each.direction.message(each.step) for each in contents.steps if each.direction is not None
        ],
    )


def _columns(records: Sequence[StepRecord]) -> wire.StepBatch:
    groups = len(records[0].learning_rates)
    seconds = list(zip(*(each.seconds for each in records), strict=True))
    return wire.StepBatch(
        step=[each.step for each in records],
        loss_sum=[each.losses.sum() for each in records],
        samples=[each.losses.samples for each in records],
        micro_batches=[each.micro_batches for each in records],
        learning_rate=[float(rate) for each in records for rate in each.learning_rates],
        learning_rate_groups=groups,
        step_seconds=seconds[0],
        input_seconds=seconds[1],
        forward_seconds=seconds[2],
        backward_seconds=seconds[3],
        sync_seconds=seconds[4],
        optimizer_seconds=seconds[5],
        ddp_iteration=[each.ddp_iteration for each in records],
        collectives=[each.collectives for each in records],
        gradient_fingerprint=[fingerprint_value(each.gradient_fingerprint) for each in records],
        optimizer_steps=[each.optimizer_steps for each in records],
        produced_fingerprint=[fingerprint_value(each.produced_fingerprint) for each in records],
        gradient_lag=[each.gradient_lag for each in records],
        gradient_scale=[each.gradient_scale for each in records],
        input_fingerprint=[checksum(each.inputs) for each in records],
        parameters_before=[fingerprint_value(each.parameters_before) for each in records],
        parameters_after=[fingerprint_value(each.parameters_after) for each in records],
    )


def _named_losses(records: Sequence[StepRecord]) -> list[wire.NamedLoss]:
    series: dict[tuple[int, str], wire.NamedLoss] = {}
    for record in records:
        losses = record.losses
        for kind, logged in (
            (wire.LOSS_KIND_GROUP, losses.groups),
            (wire.LOSS_KIND_COMPONENT, losses.components),
        ):
            for name, value, samples in logged:
                message = series.setdefault((kind, name), wire.NamedLoss(kind=kind, name=name))
                # Groups are logged as sums, terms as means, which cannot be multiplied before they have arrived.
                total = float(value) * (samples if kind == wire.LOSS_KIND_COMPONENT else 1.0)
                if message.step and message.step[-1] == record.step:
                    message.loss_sum[-1] += total
                    message.samples[-1] += samples
                else:
                    message.step.append(record.step)
                    message.loss_sum.append(total)
                    message.samples.append(samples)
    return list(series.values())
