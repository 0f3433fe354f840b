"""Where the training thread leaves records, and the background thread makes batches of them."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable

from stallwatch.agent._buffer import BatchBuffer, DropCounter
from stallwatch.agent._lag import LagTracker, vector
from stallwatch.agent._probe.anchor import ELEMENTS
from stallwatch.agent._probe.device import device_seconds
from stallwatch.agent._queue import BoundedQueue
from stallwatch.agent._records import Contents, StepRecord, build_batch
from stallwatch.v1 import telemetry_pb2 as wire

logger = logging.getLogger("stallwatch.agent")

MAX_BATCH_STEPS = 4096
_LEAST_BATCH_STEPS = 16
"""A detector that asks for less would make each step a message."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_FRAME_BYTES = 1024
_BATCH_BYTES = 1 << 20
"""Bytes after which a batch is closed, as estimated: several fit into a message, so that estimates may be wrong."""
MAX_OTHERS = 1024
"""Evaluations, and events, that a detector takes in one batch."""
_MAX_SAMPLES = 64
"""Sampled records in one batch: each may hold two fingerprints for 512 blocks."""
_EVALUATION_BYTES, _METRIC_BYTES, _EVENT_BYTES = 512, 256, 2048


class Collector:
    """Bounded queues from the training thread to the buffer. Appending never waits.

    Args:
        buffer: Where batches go.
        drops: Where losses are counted.
        limit_bytes: Most bytes that records, evaluations and events that are not yet in a batch may take.
    """

    def __init__(self, buffer: BatchBuffer, drops: DropCounter, limit_bytes: int) -> None:
        self._buffer = buffer
        self._drops = drops
        self._records = BoundedQueue[StepRecord](limit_bytes * 3 // 4, drops, lambda each: each.step)
        self._evaluations = BoundedQueue[wire.EvaluationPoint](
            limit_bytes // 8, drops, lambda each: each.step
        )
        self._events = BoundedQueue[wire.Event](limit_bytes // 8, drops, lambda each: each.step)
        self._lags = LagTracker()
        self._collecting = False
        """Whether what was taken from the queues may not be in a batch yet."""
        self._errors = 0
        self.max_batch_steps = MAX_BATCH_STEPS
        self.max_message_bytes = MAX_MESSAGE_BYTES
        self.on_crowded: Callable[[], None] = lambda: None
        """Called on the training thread when records come faster than they are collected."""

    def add_record(self, record: StepRecord) -> None:
        """Takes a finished step."""
        self._records.put(record, record.memory_bytes())
        if self._records.crowded:
            self.on_crowded()

    def add_evaluation(self, point: wire.EvaluationPoint) -> None:
        """Takes a result of an evaluation."""
        self._evaluations.put(point, _EVALUATION_BYTES + _METRIC_BYTES * len(point.metrics))

    def add_event(self, event: wire.Event) -> None:
        """Takes an event."""
        self._events.put(event, _EVENT_BYTES)

    @property
    def waiting(self) -> int:
        """Records not yet in a batch."""
        return len(self._records)

    @property
    def crowded(self) -> bool:
        """Whether records should be collected before their time."""
        return self._records.crowded or len(self._records) >= self.max_batch_steps

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._records.bytes + self._evaluations.bytes + self._events.bytes

    def idle(self) -> bool:
        """Whether nothing waits to be put into a batch."""
        return not (len(self._records) or len(self._evaluations) or len(self._events) or self._collecting)

    def obey(self, max_batch_steps: int, max_message_bytes: int) -> None:
        """Keeps to what the detector takes in one message; 0 says nothing."""
        self.max_batch_steps = min(
            max(max_batch_steps or MAX_BATCH_STEPS, _LEAST_BATCH_STEPS), MAX_BATCH_STEPS
        )
        self.max_message_bytes = max(max_message_bytes or MAX_MESSAGE_BYTES, _BATCH_BYTES // 4)

    def collect(self, *, last: bool = False) -> int:
        """Moves everything that is ready into batches; returns how many there were.

        Losses are told in the batch that comes next; with `last`, in one of their own, for no other may come.
        """
        self._collecting = True
        try:
            return self._collect(last=last)
        finally:
            self._collecting = False

    def _collect(self, *, last: bool) -> int:
        before = self._buffer.next_sequence
        while True:
            contents = Contents(
                steps=self._ready_records(),
                evaluations=self._evaluations.take(MAX_OTHERS),
                events=self._events.take(MAX_OTHERS),
            )
            more = bool(contents)
            if more or last:
                contents.dropped = self._drops.take()
            if contents:
                self._pack(contents)
            if not more:
                return self._buffer.next_sequence - before

    def _pack(self, contents: Contents) -> None:
        """Makes a batch, or several when it is too large or holds something that cannot be sent. Raises nothing."""
        reason: wire.DropReason.ValueType = wire.DROP_REASON_TOO_LARGE
        parts = None
        try:
            batch = build_batch(self._buffer.next_sequence, time.time(), contents)
            if self._buffer.append(batch, self.max_message_bytes - _FRAME_BYTES):
                return
        except Exception as error:
            reason = wire.DROP_REASON_INTERNAL_ERROR
            self._complain(error)
        try:
            parts = contents.halves()
        except Exception as error:
            reason = wire.DROP_REASON_INTERNAL_ERROR
            self._complain(error)
        if parts is not None:
            for part in parts:
                self._pack(part)
            return
        self._drops.put_back(contents.dropped)
        for step in contents.all_steps():
            self._drops.add(reason, 1, step, step)

    def _complain(self, error: Exception) -> None:
        self._errors += 1
        if self._errors == 1:
            # What handles the script's log may fail, too.
            with contextlib.suppress(Exception):
                logger.warning(
                    "stallwatch: internal error, training is not affected: %r", error, exc_info=error
                )

    def _ready_records(self) -> list[StepRecord]:
        records: list[StepRecord] = []
        sampled = size = 0

        def wanted(record: StepRecord) -> bool:
            fits = not records or (
                len(record.learning_rates) == len(records[0].learning_rates)
                and size + record.wire_bytes() <= _BATCH_BYTES
            )
            return fits and (sampled < _MAX_SAMPLES or record.sampled is None) and _is_ready(record)

        while len(records) < self.max_batch_steps:
            try:
                record = self._records.take_if(wanted)
            except Exception as error:
                # What has been taken out must not be lost with it.
                self._complain(error)
                break
            if record is None:
                break
            sampled += record.sampled is not None
            size += record.wire_bytes()
            records.append(record)
            if record.clock is not None:
                _use_device_times(record)
            try:
                self._date_gradient(record)
            except Exception as error:
                # The step is worth more than the age of its gradient, which stays unknown.
                self._complain(error)
        return records

    def _date_gradient(self, record: StepRecord) -> None:
        """Compares the anchors of the step with those of the steps before it."""
        anchor, record.anchor = record.anchor, None
        record.gradient_lag, record.gradient_scale = self._lags.take(anchor)
        if record.sampled is not None and anchor is not None:
            produced = vector(anchor.produced, anchor.dtype)
            record.sampled.gradient_scale = record.gradient_scale
            record.sampled.local_anchors = self._lags.local_anchors()
            record.sampled.produced_anchor = produced or (math.nan,) * ELEMENTS


def _is_ready(record: StepRecord) -> bool:
    try:
        return record.ready()
    except Exception:
        # The device is gone, and what it was to copy with it. Reading the values will say so, and the record is counted.
        return True


def _use_device_times(record: StepRecord) -> None:
    try:
        seconds = device_seconds(record.clock)
    except Exception:  # Events of several devices cannot be compared: the host's times are kept.
        seconds = None
    record.clock = None
    # Without a forward that was seen, the host's answer is "unknown", and the device knows no better.
    if seconds is not None and not math.isnan(record.seconds[2]):
        _, _, entry, forward, backward, sync, optimizer, _ = seconds
        record.seconds = (record.seconds[0], entry, forward, backward, sync, optimizer)
