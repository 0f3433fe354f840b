"""Batches on their way: numbered once, kept until they are safe at the detector, bounded in bytes, oldest dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from stallwatch.v1 import telemetry_pb2 as wire

_OVERHEAD_BYTES = 512
"""What a batch takes in memory besides its own bytes."""


@dataclass(slots=True)
class _Loss:
    count: int = 0
    first_step: int | None = None
    last_step: int | None = None


class DropCounter:
    """Losses by reason, gathered until the next batch reports them. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._losses: dict[int, _Loss] = {}
        self.total_steps = 0

    def add(self, reason: wire.DropReason.ValueType, count: int, first_step: int, last_step: int) -> None:
        """Counts what was lost."""
        with self._lock:
            loss = self._losses.setdefault(int(reason), _Loss())
            loss.count += count
            loss.first_step = first_step if loss.first_step is None else min(loss.first_step, first_step)
            loss.last_step = last_step if loss.last_step is None else max(loss.last_step, last_step)
            if reason != wire.DROP_REASON_INVALID_VALUE:
                self.total_steps += count

    def take(self) -> list[wire.Dropped]:
        """Returns the losses since the last call."""
        with self._lock:
            losses, self._losses = self._losses, {}
        return [
            wire.Dropped(
                reason=wire.DropReason.ValueType(reason),
                count=loss.count,
                first_step=max(loss.first_step or 0, 0),
                last_step=max(loss.last_step or 0, 0),
            )
            for reason, loss in losses.items()
        ]


class BatchBuffer:
    """Unacknowledged batches in the order of their sequence. Safe to use from any thread."""

    def __init__(self, limit_bytes: int, drops: DropCounter) -> None:
        self._limit_bytes = limit_bytes
        self._drops = drops
        self._lock = threading.Lock()
        self._batches: OrderedDict[int, tuple[wire.Batch, int]] = OrderedDict()
        self._bytes = 0
        self._sequence = 0

    @property
    def next_sequence(self) -> int:
        """The number that the next batch gets."""
        return self._sequence + 1

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    @property
    def limit_bytes(self) -> int:
        """Bytes that may be held."""
        return self._limit_bytes

    def __len__(self) -> int:
        return len(self._batches)

    def append(self, batch: wire.Batch) -> None:
        """Keeps a batch that bears `next_sequence`; drops the oldest others when it does not fit."""
        size = batch.ByteSize() + _OVERHEAD_BYTES
        with self._lock:
            self._sequence = batch.sequence
            while self._batches and self._bytes + size > self._limit_bytes:
                _, (lost, lost_size) = self._batches.popitem(last=False)
                self._bytes -= lost_size
                self._count_lost(wire.DROP_REASON_BUFFER_FULL, lost)
            self._batches[batch.sequence] = (batch, size)
            self._bytes += size

    def after(self, sequence: int) -> wire.Batch | None:
        """The first batch with a higher number; None when there is none."""
        with self._lock:
            found = self._batches.get(sequence + 1)
            if found is None:
                found = next((each for number, each in self._batches.items() if number > sequence), None)
            return None if found is None else found[0]

    def acknowledge(self, durable: int) -> None:
        """Forgets all batches up to this number: they are safe at the detector."""
        with self._lock:
            while self._batches and next(iter(self._batches)) <= durable:
                _, (_, size) = self._batches.popitem(last=False)
                self._bytes -= size

    def reject(self, sequence: int) -> bool:
        """Forgets one batch that the detector will not have; false when it was gone already."""
        with self._lock:
            found = self._batches.pop(sequence, None)
            if found is None:
                return False
            batch, size = found
            self._bytes -= size
            self._count_lost(wire.DROP_REASON_REJECTED, batch)
            return True

    def _count_lost(self, reason: wire.DropReason.ValueType, batch: wire.Batch) -> None:
        steps = batch.steps.step
        self._drops.add(reason, len(steps), steps[0] if steps else -1, steps[-1] if steps else -1)
        # Losses that the lost batch was to report are still losses.
        for dropped in batch.dropped:
            self._drops.add(
                wire.DropReason.ValueType(dropped.reason),
                dropped.count,
                dropped.first_step,
                dropped.last_step,
            )
