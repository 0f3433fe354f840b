"""The buffer between batches and the detector."""

from __future__ import annotations

import pytest

from stallwatch.agent._buffer import BatchBuffer, DropCounter
from stallwatch.agent._collector import Collector
from stallwatch.agent._records import Losses, StepRecord
from stallwatch.v1 import telemetry_pb2 as wire


def batch(sequence: int, *steps: int) -> wire.Batch:
    """A batch of some steps."""
    return wire.Batch(sequence=sequence, steps=wire.StepBatch(step=steps, loss_sum=[1.0] * len(steps)))


@pytest.fixture
def drops() -> DropCounter:
    """An empty counter."""
    return DropCounter()


def record(step: int, *, groups: int = 1) -> StepRecord:
    """A step as the probe delivers it."""
    return StepRecord(
        step=step,
        losses=Losses(),
        micro_batches=1,
        learning_rates=(0.1,) * groups,
        seconds=(1.0, 0.1, 0.2, 0.3, 0.1, 0.3),
        ddp_iteration=-1,
        collectives=-1,
        gradient_fingerprint=-1,
        optimizer_steps=1,
    )


def test_batches_are_kept_until_durable(drops):
    """Acknowledging forgets up to the number and nothing above; sending does not forget."""
    buffer = BatchBuffer(10_000, drops)
    for sequence in (1, 2, 3):
        assert buffer.next_sequence == sequence
        buffer.append(batch(sequence, sequence))
    assert buffer.after(0).sequence == 1
    assert buffer.after(0).sequence == 1
    buffer.acknowledge(2)
    assert len(buffer) == 1
    assert buffer.after(0).sequence == 3
    buffer.acknowledge(3)
    assert buffer.after(0) is None
    assert buffer.bytes == 0


def test_oldest_are_dropped_and_counted_when_full(drops):
    """The buffer stays within its bytes; what was lost is counted by steps, once."""
    buffer = BatchBuffer(3_000, drops)
    for sequence in range(1, 21):
        buffer.append(batch(sequence, 2 * sequence, 2 * sequence + 1))
        assert buffer.bytes <= 3_000
    first = buffer.after(0).sequence
    assert first > 1
    (dropped,) = drops.take()
    assert (dropped.reason, dropped.count) == (wire.DROP_REASON_BUFFER_FULL, 2 * (first - 1))
    assert (dropped.first_step, dropped.last_step) == (2, 2 * first - 1)
    assert drops.take() == []
    assert drops.total_steps == 2 * (first - 1)


def test_one_batch_larger_than_the_buffer_is_still_kept(drops):
    """There is always room for the newest."""
    buffer = BatchBuffer(10, drops)
    buffer.append(batch(1, 1))
    buffer.append(batch(2, 2))
    assert buffer.after(0).sequence == 2


def test_losses_told_in_a_lost_batch_are_told_again(drops):
    """A dropped batch that was to report drops hands its report on."""
    buffer = BatchBuffer(1_200, drops)
    first = batch(1, 5)
    first.dropped.add(reason=wire.DROP_REASON_INTERNAL_ERROR, count=7, first_step=1, last_step=4)
    for each in (first, batch(2, 6), batch(3, 7)):
        buffer.append(each)
    reported = {each.reason: each.count for each in drops.take()}
    assert reported[wire.DROP_REASON_INTERNAL_ERROR] == 7


def test_rejected_batch_is_forgotten_once(drops):
    """A rejection counts the steps of the batch; a second one of the same number does nothing."""
    buffer = BatchBuffer(10_000, drops)
    buffer.append(batch(1, 1, 2, 3))
    assert buffer.reject(1)
    assert not buffer.reject(1)
    (dropped,) = drops.take()
    assert (dropped.reason, dropped.count) == (wire.DROP_REASON_REJECTED, 3)


def test_reading_goes_on_behind_a_gap(drops):
    """After a drop in the middle of sending, the next that is there comes next."""
    buffer = BatchBuffer(10_000, drops)
    for sequence in (1, 2, 3):
        buffer.append(batch(sequence, sequence))
    buffer.reject(2)
    assert buffer.after(1).sequence == 3


def test_batches_hold_at_most_as_many_steps_as_the_detector_takes(drops):
    """Many waiting steps make several batches in order, none too long."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops)
    collector.max_batch_steps = 100
    for step in range(250):
        collector.add_record(record(step))
    assert collector.collect() == 3
    assert [len(buffer.after(n).steps.step) for n in range(3)] == [100, 100, 50]
    assert collector.idle()


def test_change_of_parameter_groups_begins_a_new_batch(drops):
    """The learning rates of a batch are a table: a group more is another table."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops)
    for step, groups in ((0, 1), (1, 1), (2, 2)):
        collector.add_record(record(step, groups=groups))
    assert collector.collect() == 2
    assert [buffer.after(n).steps.learning_rate_groups for n in range(2)] == [1, 2]


def test_records_nobody_collects_are_bounded(drops):
    """Should the background thread die, memory does not grow without end."""
    collector = Collector(BatchBuffer(10**9, drops), drops)
    for step in range(65_536 + 10):
        collector.add_record(record(step))
    assert collector.waiting == 65_536
    assert drops.total_steps == 10


def test_groups_and_components_become_named_losses(drops):
    """Groups are sums already, terms are multiplied by the samples; micro-batches of a step add up."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops)
    one = record(3)
    one.losses.groups += [("cat", 6.0, 2.0), ("cat", 1.0, 1.0)]
    one.losses.components += [("kl", 0.5, 8.0)]
    collector.add_record(one)
    collector.collect()
    named = {each.name: each for each in buffer.after(0).named_losses}
    assert (named["cat"].kind, list(named["cat"].loss_sum), list(named["cat"].samples)) == (
        wire.LOSS_KIND_GROUP,
        [7.0],
        [3.0],
    )
    assert (named["kl"].kind, list(named["kl"].step), list(named["kl"].loss_sum)) == (
        wire.LOSS_KIND_COMPONENT,
        [3],
        [4.0],
    )
