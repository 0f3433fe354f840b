"""Where the training thread leaves records, and the background thread makes batches of them."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TypeVar

from stallwatch.agent._buffer import BatchBuffer, DropCounter
from stallwatch.agent._lag import LagTracker, vector
from stallwatch.agent._probe.anchor import ELEMENTS
from stallwatch.agent._probe.device import device_seconds
from stallwatch.agent._records import Contents, StepRecord, build_batch
from stallwatch.v1 import telemetry_pb2 as wire

_Item = TypeVar("_Item")

MAX_BATCH_STEPS = 4096
_MAX_WAITING_RECORDS = 65_536
_MAX_WAITING_OTHERS = 4096
_MAX_SAMPLES = 64
"""Sampled records in one batch: each may hold two fingerprints for 512 blocks."""


class Collector:
    """Bounded queues from the training thread to the buffer. Appending never waits."""

    def __init__(self, buffer: BatchBuffer, drops: DropCounter) -> None:
        self._buffer = buffer
        self._drops = drops
        self._records: deque[StepRecord] = deque()
        self._evaluations: deque[wire.EvaluationPoint] = deque(maxlen=_MAX_WAITING_OTHERS)
        self._events: deque[wire.Event] = deque(maxlen=_MAX_WAITING_OTHERS)
        self._lags = LagTracker()
        self.max_batch_steps = MAX_BATCH_STEPS

    def add_record(self, record: StepRecord) -> None:
        """Takes a finished step."""
        if len(self._records) >= _MAX_WAITING_RECORDS:
            try:
                lost = self._records.popleft()
            except IndexError:
                pass
            else:
                self._drops.add(wire.DROP_REASON_BUFFER_FULL, 1, lost.step, lost.step)
        self._records.append(record)

    def add_evaluation(self, point: wire.EvaluationPoint) -> None:
        """Takes a result of an evaluation."""
        self._evaluations.append(point)

    def add_event(self, event: wire.Event) -> None:
        """Takes an event."""
        self._events.append(event)

    @property
    def waiting(self) -> int:
        """Records not yet in a batch."""
        return len(self._records)

    def idle(self) -> bool:
        """Whether nothing waits to be put into a batch."""
        return not (self._records or self._evaluations or self._events)

    def collect(self) -> int:
        """Moves everything that is ready into batches; returns how many there were."""
        count = 0
        while True:
            contents = Contents(
                steps=self._ready_records(),
                evaluations=_drain(self._evaluations),
                events=_drain(self._events),
            )
            if contents:
                contents.dropped = self._drops.take()
            if not contents:
                return count
            try:
                self._buffer.append(build_batch(self._buffer.next_sequence, time.time(), contents))
            except Exception:
                steps = contents.steps
                if steps:
                    self._drops.add(
                        wire.DROP_REASON_INTERNAL_ERROR, len(steps), steps[0].step, steps[-1].step
                    )
                raise
            count += 1

    def _ready_records(self) -> list[StepRecord]:
        records: list[StepRecord] = []
        sampled = 0
        groups = -1
        while self._records and len(records) < self.max_batch_steps:
            record = self._records[0]
            if not record.ready() or (records and len(record.learning_rates) != groups):
                break
            sampled += record.sampled is not None
            if sampled > _MAX_SAMPLES:
                break
            groups = len(record.learning_rates)
            self._records.popleft()
            if record.clock is not None:
                _use_device_times(record)
            self._date_gradient(record)
            records.append(record)
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


def _drain(queue: deque[_Item]) -> list[_Item]:
    return [queue.popleft() for _ in range(len(queue))]
