"""The buffer between batches and the detector."""

from __future__ import annotations

import pytest
import torch

from stallwatch.agent._buffer import BatchBuffer, DropCounter
from stallwatch.agent._collector import Collector
from stallwatch.agent._probe.anchor import AnchorReadings
from stallwatch.agent._records import Losses, StepRecord
from stallwatch.v1 import telemetry_pb2 as wire

WAITING_BYTES = 16 << 20


def batch(sequence: int, *steps: int) -> wire.Batch:
    """A batch of some steps."""
    return wire.Batch(sequence=sequence, steps=wire.StepBatch(step=steps, loss_sum=[1.0] * len(steps)))


def sent(buffer: BatchBuffer, after: int) -> wire.Batch:
    """What goes onto the wire."""
    return wire.StreamRequest.FromString(buffer.after(after).request).batch


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
    collector = Collector(buffer, drops, WAITING_BYTES)
    collector.max_batch_steps = 100
    for step in range(250):
        collector.add_record(record(step))
    assert collector.collect() == 3
    assert [len(sent(buffer, n).steps.step) for n in range(3)] == [100, 100, 50]
    assert collector.idle()


def test_collector_is_not_idle_while_a_batch_is_being_made(drops, monkeypatch):
    """Whoever asks just then, as closing does when its time is over, must not hear that nothing waits."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    collector.add_record(record(1))
    idle = []

    def keeping(*arguments):
        idle.append((collector.idle(), len(buffer)))
        return BatchBuffer.append(buffer, *arguments)

    monkeypatch.setattr(buffer, "append", keeping)
    collector.collect()
    assert idle == [(False, 0)]
    assert (collector.idle(), len(buffer)) == (True, 1)


def test_change_of_parameter_groups_begins_a_new_batch(drops):
    """The learning rates of a batch are a table: a group more is another table."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    for step, groups in ((0, 1), (1, 1), (2, 2)):
        collector.add_record(record(step, groups=groups))
    assert collector.collect() == 2
    assert [sent(buffer, n).steps.learning_rate_groups for n in range(2)] == [1, 2]


def test_records_nobody_collects_are_bounded_in_bytes(drops):
    """Should the background thread die, memory does not grow without end, and what is left out is counted."""
    collector = Collector(BatchBuffer(10**9, drops), drops, 1 << 20)
    for step in range(2_000):
        collector.add_record(record(step))
        assert collector.bytes <= 1 << 20
    assert 0 < collector.waiting < 2_000
    (dropped,) = drops.take()
    assert (dropped.reason, dropped.count) == (wire.DROP_REASON_BUFFER_FULL, 2_000 - collector.waiting)
    assert (dropped.first_step, dropped.last_step) == (0, 1_999 - collector.waiting)


def test_groups_and_components_become_named_losses(drops):
    """Groups are sums already, terms are multiplied by the samples; micro-batches of a step add up."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    one = record(3)
    one.losses.groups += [("cat", 6.0, 2.0), ("cat", 1.0, 1.0)]
    one.losses.components += [("kl", 0.5, 8.0)]
    collector.add_record(one)
    collector.collect()
    named = {each.name: each for each in sent(buffer, 0).named_losses}
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


def test_batches_kept_for_too_long_are_dropped_and_counted(drops):
    """Age counts from when a batch was made, on a clock that does not jump; younger ones stay."""
    now = [1000.0]
    buffer = BatchBuffer(10**6, drops, limit_seconds=60.0, clock=lambda: now[0])
    for sequence in (1, 2, 3):
        buffer.append(batch(sequence, sequence))
        now[0] += 25.0
    buffer.expire()
    assert buffer.after(0).sequence == 2
    now[0] += 30.0
    buffer.expire()
    assert buffer.after(0).sequence == 3
    (dropped,) = drops.take()
    assert (dropped.reason, dropped.count) == (wire.DROP_REASON_TOO_OLD, 2)
    assert (dropped.first_step, dropped.last_step) == (1, 2)


def test_bytes_held_are_those_of_the_wire(drops):
    """What is counted is what lies there: the encoded request, and a fixed part for each batch."""
    buffer = BatchBuffer(10**6, drops)
    assert buffer.append(batch(1, *range(100)))
    assert buffer.bytes == len(buffer.after(0).request) + 512 == buffer.peak_bytes


def test_batch_that_no_message_can_hold_is_cut(drops):
    """A detector takes so many bytes in a message: steps are spread over several, in order, with nothing lost."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    collector.max_message_bytes = 6_000
    for step in range(200):
        collector.add_record(record(step))
    collector.add_event(wire.Event(step=7, kind="user", text="x"))
    collector.collect()
    kept = [sent(buffer, n) for n in range(len(buffer))]
    assert len(kept) > 2
    assert [step for each in kept for step in each.steps.step] == list(range(200))
    assert sum(len(each.events) for each in kept) == 1
    assert [each.sequence for each in kept] == list(range(1, len(kept) + 1))
    assert not drops.total_steps


def test_one_step_that_no_message_can_hold_is_counted(drops):
    """It is left out, and neither its neighbours nor the reports of other losses are."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    collector.max_message_bytes = 6_000
    drops.add(wire.DROP_REASON_INTERNAL_ERROR, 2, 0, 1)
    for step in (3, 4, 5):
        one = record(step)
        if step == 4:
            one.losses.components += [(f"term {number}", 0.5, 8.0) for number in range(250)]
        collector.add_record(one)
    collector.collect()
    collector.add_record(record(6))
    collector.collect()
    kept = [sent(buffer, n) for n in range(len(buffer))]
    assert [step for each in kept for step in each.steps.step] == [3, 5, 6]
    told = {each.reason: (each.count, each.first_step) for each in [*kept[0].dropped, *kept[-1].dropped]}
    assert told == {wire.DROP_REASON_INTERNAL_ERROR: (2, 0), wire.DROP_REASON_TOO_LARGE: (1, 4)}


def test_one_step_that_cannot_be_encoded_is_counted(drops, caplog):
    """One bad value costs its own step, not the four thousand that wait with it."""
    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    for step in range(50):
        one = record(step)
        if step == 20:
            one.losses.values.append(("no number", 1.0))
        collector.add_record(one)
    collector.collect()
    steps = [step for n in range(len(buffer)) for step in sent(buffer, n).steps.step]
    assert steps == [step for step in range(50) if step != 20]
    (dropped,) = drops.take()
    assert (dropped.reason, dropped.count, dropped.first_step) == (wire.DROP_REASON_INTERNAL_ERROR, 1, 20)
    assert len(caplog.records) == 1


def test_evaluations_and_events_keep_to_what_a_detector_takes(drops):
    """More than 1,024 of a kind make several batches; those that a full queue drops are counted."""
    buffer = BatchBuffer(10**8, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    for step in range(1500):
        collector.add_event(wire.Event(step=step, kind="user", text="x"))
    collector.collect()
    kept = [sent(buffer, n).events for n in range(len(buffer))]
    assert max(map(len, kept)) <= 1024
    lost = drops.total_steps
    assert [each.step for events in kept for each in events] == list(range(lost, 1500))
    assert lost == 1500 - sum(map(len, kept))


def test_records_of_a_lost_device_do_not_block_the_queue(drops):
    """When the device's events cannot be asked any more, what they stood for is counted, and what comes after goes on."""

    class Gone:
        def query(self) -> bool:
            raise RuntimeError("CUDA error")

        def __float__(self) -> float:
            raise RuntimeError("CUDA error")

    buffer = BatchBuffer(10**7, drops)
    collector = Collector(buffer, drops, WAITING_BYTES)
    lost = record(1)
    lost.arrived = Gone()
    lost.losses.values.append((Gone(), 1.0))
    for each in (record(0), lost, record(2)):
        collector.add_record(each)
    collector.collect()
    assert [step for n in range(len(buffer)) for step in sent(buffer, n).steps.step] == [0, 2]
    (dropped,) = drops.take()
    assert (dropped.reason, dropped.first_step) == (wire.DROP_REASON_INTERNAL_ERROR, 1)


def test_estimate_of_a_records_memory_is_not_too_low(drops):
    """What waits is counted by an estimate: never below what Python really holds, and within a few times of it."""
    import tracemalloc

    def make(step: int) -> StepRecord:
        one = record(step)
        one.seconds = tuple(step + share for share in (0.9, 0.1, 0.2, 0.3, 0.15, 0.35))
        one.learning_rates = (step + 0.1,)
        one.losses.add(step + 0.5, float(step))
        one.inputs = [bytes([step % 251]) * 256]
        anchor = AnchorReadings(0, torch.float32)
        anchor.produced, anchor.applied = bytes(16 * [1]), bytes(16 * [2])
        anchor.local, anchor.carried = [bytes(16 * [3])], None
        one.anchor = anchor
        return one

    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    records = [make(step) for step in range(10_000, 10_500)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = sum(each.memory_bytes() for each in records)
    assert counted / 3 < after - before < counted
