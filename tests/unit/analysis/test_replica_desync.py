"""Parameters that differ across ranks: between which steps, on which ranks, in which blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.checks.replica_desync import ReplicaDesync
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import StepObservation
from support.simulation import BLOCKS, Job, analyze, kinds, one, probed


def flipped(since, ranks, blocks=(1,), until=10**9):
    """A bit of some blocks' parameters is another on some ranks."""

    def fault(step, rank, record):
        if not since <= step < until or rank not in ranks:
            return record
        prints = list(record.parameter_fingerprints)
        for block in blocks:
            prints[block] ^= 1 << 40
        return replace(record, parameter_fingerprints=tuple(prints))

    return fault


@pytest.mark.parametrize("since", [51, 75, 80, 137])
def test_the_onset_lies_between_the_last_equal_and_the_first_differing_sample(since):
    """The finding begins within half a sampling period of the truth, and its evidence holds the interval."""
    analysis = analyze(Job(steps=250, sample_fault=flipped(since, [2])))
    finding = one(analysis, "replica_desync")
    assert finding.evidence["last_equal_step"] < since <= finding.evidence["first_differing_step"]
    assert abs(finding.since_step - since) <= 13
    assert finding.ranks == (2,)
    assert finding.layers == (BLOCKS[1],)
    assert kinds(analysis) == {"replica_desync"}


def apart(since, ranks, every=1, until=10**9):
    """The few parameters that are compared at every step differ on some ranks; where a part is concerned, now and then."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step % every == 0) & (columns.step < until)
        for rank in ranks:
            columns.parameters_before[rows, rank] += 7
            columns.parameters_after[rows, rank] += 7

    return fault


@pytest.mark.parametrize("period", [25, 1000])
@pytest.mark.parametrize(("every", "late"), [(1, 6), (5, 18)])
def test_parameters_of_single_steps_tell_it_without_a_sample(period, every, late):
    """A rank whose weights were changed at once: three steps that show it are enough, and the rank is right."""
    blocks = range(4) if every == 1 else (1,)
    job = Job(
        steps=200,
        sample_period=period,
        faults=(probed, apart(61, [2], every)),
        sample_fault=flipped(61, [2], blocks),
    )
    finding = one(analyze(job), "replica_desync")
    assert finding.detected_step <= 61 + late
    assert finding.ranks == (2,)
    assert abs(finding.since_step - 61) <= (0 if every == 1 else 31)
    assert finding.severity == "critical"
    assert kinds(analyze(job)) == {"replica_desync"}


def test_a_late_sample_of_before_does_not_resolve_what_steps_have_shown():
    """Samples arrive some steps after their own; those that follow name the blocks."""
    fault = flipped(61, [2], blocks=range(4))
    finding = one(
        analyze(Job(steps=260, faults=(probed, apart(61, [2])), sample_fault=fault)), "replica_desync"
    )
    assert finding.status == "firing"
    assert finding.detected_step <= 67
    assert finding.layers == BLOCKS
    assert finding.since_step == 61


def seen(step, ranks, before, world_size=3):
    """One step of some of the ranks, with equal gradients."""
    count = len(ranks)
    seconds, counts = np.full(count, 0.1), np.full(count, step)
    return StepObservation(
        step=step,
        attempt=0,
        world_size=world_size,
        ranks=ranks,
        loss_sum=np.ones(count),
        samples=np.ones(count),
        micro_batches=np.ones(count, np.int64),
        learning_rates=(0.1,),
        step_seconds=seconds,
        input_seconds=seconds,
        forward_seconds=seconds,
        backward_seconds=seconds,
        sync_seconds=seconds,
        optimizer_seconds=seconds,
        ddp_iterations=counts,
        collectives=counts,
        gradient_fingerprint=np.full(count, 7),
        parallelism=Parallelism.DATA_PARALLEL,
        parameters_before=np.array(before),
        parameters_after=np.array(before),
    )


@pytest.mark.parametrize("late", range(4))
def test_the_rank_is_named_by_the_step_that_has_most_ranks(late):
    """Two ranks of three have no majority: one step with all of them decides, whichever of the steps it is."""
    check, verdicts = ReplicaDesync(), []
    for step in range(4):
        full = step == late
        observed = seen(step, (0, 1, 2), (5, 6, 5)) if full else seen(step, (1, 2), (6, 5))
        verdicts.append(check.update(observed))
    (verdict,) = [each for each in verdicts if each is not None]
    assert verdict.ranks == (1,)


def test_ranks_that_never_come_are_not_waited_for_without_end():
    """Four times as many steps, and those that are there are named."""
    check = ReplicaDesync()
    verdicts = [check.update(seen(step, (1, 2), (6, 5))) for step in range(12)]
    assert [each is not None for each in verdicts] == [False] * 11 + [True]
    assert verdicts[-1].ranks == (1, 2)


def test_steps_with_differing_gradients_wait_for_another_finding():
    """Where gradients differ as well, it is their averaging that is missing, and this is what comes of it."""

    def bypass(columns):
        rows = columns.step >= 60
        columns.gradient_fingerprint[rows, 1] += 1
        columns.produced_fingerprint[rows, 1] += 1

    assert kinds(analyze(Job(steps=200, faults=(probed, bypass, apart(61, [1]))))) == {
        "missing_gradient_sync"
    }


def test_parameters_that_differ_for_two_steps_and_agree_again_are_nothing():
    """A rank that put something in for two steps, and took it out again."""
    assert kinds(analyze(Job(steps=200, faults=(probed, apart(61, [1], until=63))))) == set()


def test_two_replicas_have_no_majority():
    """With two ranks both are named, and the advice does not pretend to know which copy is right."""
    finding = one(analyze(Job(ranks=2, sample_fault=flipped(60, [1]))), "replica_desync")
    assert finding.ranks == (0, 1)
    assert "no majority" in finding.advice[0]


def test_it_is_a_consequence_of_missing_synchronisation():
    """Replicas that took steps on their own gradients differ afterwards: that is one finding, also once sync is back."""

    def bypass(columns):
        rows = (columns.step >= 60) & (columns.step < 100)
        columns.gradient_fingerprint[rows, 1] += 1

    job = Job(steps=400, faults=(bypass,), sample_fault=flipped(60, [1], blocks=range(4)))
    assert kinds(analyze(job)) == {"missing_gradient_sync"}


def test_one_that_predates_missing_synchronisation_is_reported_as_well():
    """A desync known from a sample before synchronisation stopped has a cause of its own."""

    def bypass(columns):
        columns.gradient_fingerprint[columns.step >= 150, 1] += 1

    job = Job(steps=300, faults=(bypass,), sample_fault=flipped(60, [1]))
    assert kinds(analyze(job)) == {"missing_gradient_sync", "replica_desync"}


@pytest.mark.parametrize("period", [10, 16, 25])
def test_a_sample_right_after_the_bypass_does_not_open_it(period):
    """A sample on the very step on which synchronisation stops is explained by the finding that follows."""
    since = 7 * period

    def bypass(columns):
        columns.gradient_fingerprint[columns.step >= since, 1] += 1

    job = Job(steps=300, sample_period=period, faults=(bypass,), sample_fault=flipped(since, [1]))
    assert kinds(analyze(job)) == {"missing_gradient_sync"}


def test_it_resolves_once_parameters_are_equal_again():
    """A broadcast makes replicas equal: two samples later the finding resolves."""
    finding = one(analyze(Job(steps=400, sample_fault=flipped(60, [1], until=200))), "replica_desync")
    assert finding.status == "resolved"
    assert 225 <= finding.resolved_step <= 235


def differing_buffers(step, rank, record):
    """Running statistics of batch normalisation, which each rank keeps for itself."""
    return replace(record, buffer_fingerprint=1000 + rank)


def spoiled(step, rank, record):
    """Blocks with NaN, whose bits differ."""
    if step < 60:
        return record
    prints = tuple(print_ + rank for print_ in record.parameter_fingerprints)
    return replace(record, parameter_fingerprints=prints, non_finite_blocks=tuple(range(4)))


def some_ranks_only(step, rank, record):
    """Samples that only rank 0 sends."""
    return record if rank == 0 else replace(record, parameter_fingerprints=(), gradient_fingerprints=())


@pytest.mark.parametrize("fault", [None, spoiled, some_ranks_only])
def test_healthy_twins_give_nothing(fault):
    """Equal parameters, NaN and missing samples are no desync."""
    assert kinds(analyze(Job(sample_fault=fault))) == set()


@pytest.mark.parametrize("parallelism", [Parallelism.SHARDED, Parallelism.LOCAL])
def test_replicas_that_are_meant_to_differ_are_left_alone(parallelism):
    """Shards and deliberately local replicas hold other numbers."""
    assert kinds(analyze(Job(parallelism=parallelism, sample_fault=flipped(0, [1])))) == set()


def test_large_fingerprints_survive():
    """Fingerprints use all 64 bits."""
    fault = flipped(60, [0])

    def large(step, rank, record):
        prints = tuple(
            int(np.uint64(print_) | np.uint64(1 << 63)) for print_ in record.parameter_fingerprints
        )
        return fault(step, rank, replace(record, parameter_fingerprints=prints))

    assert one(analyze(Job(sample_fault=large)), "replica_desync").ranks == (0,)


def test_buffers_that_nobody_broadcasts_are_information():
    """They may be meant to differ, so it is told and no more."""
    finding = one(analyze(Job(sample_fault=differing_buffers)), "replica_desync")
    assert (finding.severity, finding.since_step, finding.detected_step) == ("info", 0, 0)
    assert "Buffers" in finding.reason


@pytest.mark.parametrize("explained", [False, True])
def test_parameters_that_differ_as_well_are_worse_unless_they_are_explained(explained):
    """What was information becomes critical; a consequence of missing synchronisation does not make it so."""

    def bypass(columns):
        if explained:
            columns.gradient_fingerprint[columns.step >= 60, 1] += 1

    def both(step, rank, record):
        return flipped(60, [1], range(4))(step, rank, differing_buffers(step, rank, record))

    analysis = analyze(Job(faults=(bypass,), sample_fault=both))
    assert one(analysis, "replica_desync").severity == ("info" if explained else "critical")
    assert ("missing_gradient_sync" in kinds(analysis)) == explained


def test_equal_buffers_resolve_it():
    """Somebody broadcasts them after all."""

    def until(step, rank, record):
        return differing_buffers(step, rank, record) if step < 100 else replace(record, buffer_fingerprint=5)

    assert one(analyze(Job(sample_fault=until)), "replica_desync").status == "resolved"


@pytest.mark.parametrize("period", [8, 25])
def test_steps_name_the_onset_where_the_whole_model_differs(period):
    """Fingerprints of a few parameters at every step date a reload exactly, whichever sample comes late."""

    def reloaded(columns):
        columns.parameters_before[columns.step >= 87, 2] += 1
        columns.parameters_after[columns.step >= 87, 2] += 1

    finding = one(
        analyze(
            Job(faults=(probed, reloaded), sample_fault=flipped(87, [2], range(4)), sample_period=period)
        ),
        "replica_desync",
    )
    assert finding.since_step == 87
    assert finding.ranks == (2,)
