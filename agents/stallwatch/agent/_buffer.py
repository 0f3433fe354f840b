"""Batches on their way: numbered once, kept until they are safe at the detector, bounded in bytes and age, oldest dropped first.

A batch is kept as the bytes that go onto the wire. That is a fifth of what the message objects of small batches take, it is
exactly what is counted, and a batch that is sent again is not encoded again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

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
        # Reentrant, for a signal handler of the script may come to count while the thread it interrupts does.
        self._lock = threading.RLock()
        self._losses: dict[int, _Loss] = {}
        self.total_steps = 0

    def add(self, reason: wire.DropReason.ValueType, count: int, first_step: int, last_step: int) -> None:
        """Counts what was lost; nothing when `count` is 0."""
        if not count:
            return
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

    def put_back(self, told: list[wire.Dropped]) -> None:
        """Gathers again what was taken and could not be reported; it is in the total already."""
        with self._lock:
            total = self.total_steps
            for each in told:
                self.add(wire.DropReason.ValueType(each.reason), each.count, each.first_step, each.last_step)
            self.total_steps = total


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """One batch as it is sent, and what has to be known of it without decoding it."""

    sequence: int
    request: bytes
    """A serialized `StreamRequest`."""
    kept_at: float
    records: int
    """Steps, evaluations and events in it."""
    first_step: int
    last_step: int
    dropped: tuple[wire.Dropped, ...]
    """Losses that it reports."""

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return len(self.request) + _OVERHEAD_BYTES


def keep(batch: wire.Batch, now: float) -> KeptBatch:
    """Encodes a batch."""
    steps: list[int] = [
        *batch.steps.step,
        *(each.step for each in batch.evaluations),
        *(each.step for each in batch.events),
    ]
    return KeptBatch(
        sequence=batch.sequence,
        request=wire.StreamRequest(batch=batch).SerializeToString(),
        kept_at=now,
        records=len(steps),
        first_step=min(steps, default=0),
        last_step=max(steps, default=0),
        dropped=tuple(batch.dropped),
    )


class BatchBuffer:
    """Batches that are not yet durable, in the order of their sequence. Safe to use from any thread.

    Args:
        limit_bytes: Most bytes to keep; the newest batch is kept even when it is larger.
        drops: Where losses are counted.
        limit_seconds: Longest time to keep a batch; 0 for no limit.
        clock: Seconds that never jump.
    """

    def __init__(
        self,
        limit_bytes: int,
        drops: DropCounter,
        limit_seconds: float = 0.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._drops = drops
        self._lock = threading.Lock()
        self._batches: OrderedDict[int, KeptBatch] = OrderedDict()
        self._bytes = 0
        self._sequence = 0
        self.peak_bytes = 0
        """Most bytes ever held."""

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

    def append(self, batch: wire.Batch, most_bytes: int = 0) -> bool:
        """Keeps a batch that bears `next_sequence`; drops the oldest others when it does not fit.

        False, and nothing is done, when the encoded batch is larger than `most_bytes`, if that is not 0.
        """
        kept = keep(batch, self._clock())
        if most_bytes and len(kept.request) > most_bytes:
            return False
        with self._lock:
            self._sequence = kept.sequence
            while self._batches and self._bytes + kept.size > self._limit_bytes:
                self._count_lost(wire.DROP_REASON_BUFFER_FULL, self._take_oldest())
            self._batches[kept.sequence] = kept
            self._bytes += kept.size
            self.peak_bytes = max(self.peak_bytes, self._bytes)
        self.expire()
        return True

    def expire(self) -> None:
        """Drops what has been kept for too long."""
        if not self._limit_seconds:
            return
        oldest = self._clock() - self._limit_seconds
        with self._lock:
            while self._batches and next(iter(self._batches.values())).kept_at < oldest:
                self._count_lost(wire.DROP_REASON_TOO_OLD, self._take_oldest())

    def after(self, sequence: int) -> KeptBatch | None:
        """The first batch with a higher number; None when there is none."""
        with self._lock:
            found = self._batches.get(sequence + 1)
            if found is None:
                found = next((each for number, each in self._batches.items() if number > sequence), None)
            return found

    def acknowledge(self, durable: int) -> None:
        """Forgets all batches up to this number: they are safe at the detector."""
        with self._lock:
            while self._batches and next(iter(self._batches)) <= durable:
                self._take_oldest()

    def reject(self, sequence: int) -> bool:
        """Forgets one batch that the detector will not have; false when it was gone already."""
        with self._lock:
            found = self._batches.pop(sequence, None)
            if found is None:
                return False
            self._bytes -= found.size
            self._count_lost(wire.DROP_REASON_REJECTED, found)
            return True

    def _take_oldest(self) -> KeptBatch:
        _, kept = self._batches.popitem(last=False)
        self._bytes -= kept.size
        return kept

    def _count_lost(self, reason: wire.DropReason.ValueType, kept: KeptBatch) -> None:
        self._drops.add(reason, kept.records, kept.first_step, kept.last_step)
        # Losses that the lost batch was to report are still losses.
        self._drops.put_back(list(kept.dropped))
