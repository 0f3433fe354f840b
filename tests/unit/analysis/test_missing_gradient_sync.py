"""Gradients that were not averaged: since when, on which ranks, in which form; and what must not be mistaken for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.core.inputs import Parallelism
from support.simulation import BLOCKS, Job, analyze, kinds, one

FROM = 120


def unsynchronised(ranks=None, since=FROM, until=10**9, *, ddp=True, collectives=True, prints=True):
    """Ranks keep gradients of their own; by default DDP's count and that of collectives stand still, too."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until)
        who = range(columns.gradient_fingerprint.shape[1]) if ranks is None else ranks
        rng = np.random.default_rng(0)
        for rank in who:
            if prints:
                columns.gradient_fingerprint[rows, rank] = rng.integers(0, 1 << 60, int(rows.sum()))
            for name, stopped in (("ddp_iteration", ddp), ("collectives", collectives)):
                column = getattr(columns, name)
                if stopped:
                    held = column[columns.step < since, rank].max(initial=0)
                    column[rows, rank] = held
                    later = columns.step >= until
                    column[later, rank] -= int(rows.sum()) * (3 if name == "collectives" else 1)

    return fault


def no_prints(columns):
    """Agents that take no fingerprints."""
    columns.gradient_fingerprint[:] = -1


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_bypassed_wrapper_is_called_within_two_steps(ranks, seed):
    """From the step on which all ranks bypass DDP, the finding begins exactly there and names all of them."""
    analysis = analyze(Job(ranks=ranks, seed=seed, faults=(unsynchronised(),), sample_period=0))
    finding = one(analysis, "missing_gradient_sync")
    assert finding.since_step == FROM
    assert finding.detected_step <= FROM + 1
    assert finding.ranks == tuple(range(ranks))
    assert finding.evidence["form"] == "bypassed"
    assert finding.severity == "critical"
    assert kinds(analysis) == {"missing_gradient_sync"}


def test_one_rank_that_keeps_its_own_gradient_is_named():
    """With three or more ranks, the majority tells who deviates; with the counters going on it takes two steps."""
    analysis = analyze(Job(faults=(unsynchronised([2], ddp=False, collectives=False),), sample_period=0))
    finding = one(analysis, "missing_gradient_sync")
    assert (finding.since_step, finding.detected_step, finding.ranks) == (FROM, FROM + 1, (2,))
    assert finding.evidence["form"] == "differing"


def test_two_ranks_that_differ_are_both_named():
    """Without a majority nobody knows which of two is right: both are named."""
    fault = unsynchronised([1], ddp=False, collectives=False)
    finding = one(analyze(Job(ranks=2, faults=(fault,), sample_period=0)), "missing_gradient_sync")
    assert finding.ranks == (0, 1)


@pytest.mark.parametrize(
    ("ddp", "form"), [(True, "bypassed"), (False, "unfinished")], ids=["both stand still", "only collectives"]
)
def test_counters_alone_tell_a_bypass_from_a_reduction_that_never_finished(ddp, form):
    """Without fingerprints, DDP's count standing still means a bypass; collectives alone, an unfinished reduction."""
    faults = (unsynchronised(ddp=ddp, prints=False), no_prints)
    finding = one(analyze(Job(faults=faults, sample_period=0)), "missing_gradient_sync")
    assert finding.evidence["form"] == form
    assert abs(finding.since_step - FROM) <= 2
    assert finding.detected_step <= FROM + 3


def test_a_bypass_from_the_first_step_is_called_from_counters_alone():
    """Counters that never move once in twenty steps are no baseline but a verdict."""
    faults = (unsynchronised(since=0, prints=False), no_prints)
    finding = one(analyze(Job(faults=faults, sample_period=0)), "missing_gradient_sync")
    assert finding.since_step == 0
    assert finding.detected_step <= 25


def test_it_resolves_after_fifty_good_steps():
    """Once gradients are averaged again, the finding stays for fifty steps and then resolves."""
    fault = unsynchronised(until=FROM + 30)
    finding = one(analyze(Job(steps=400, faults=(fault,), sample_period=0)), "missing_gradient_sync")
    assert finding.status == "resolved"
    assert FROM + 30 + 49 <= finding.resolved_step <= FROM + 30 + 55


def test_a_part_of_the_model_left_out_is_found_from_scattered_steps():
    """A parameter that is not averaged is met by the moving fingerprint every seventh step only: twice is enough."""

    def unfrozen(columns):
        rows = (columns.step >= FROM) & (columns.step % 7 == 0)
        columns.gradient_fingerprint[rows] += np.arange(columns.gradient_fingerprint.shape[1])

    finding = one(analyze(Job(steps=300, faults=(unfrozen,), sample_period=0)), "missing_gradient_sync")
    assert abs(finding.since_step - FROM) <= 7
    assert finding.status == "firing"
    assert finding.evidence["form"] == "scattered"


def test_blocks_whose_gradients_differ_are_named_from_a_sample():
    """Sampled per-block fingerprints name the layers that are not averaged, at the first sample that shows it."""

    def fault(step, rank, record):
        if step < FROM or rank != 1:
            return record
        prints = list(record.gradient_fingerprints)
        prints[3] ^= 1
        return replace(record, gradient_fingerprints=tuple(prints))

    finding = one(analyze(Job(sample_fault=fault)), "missing_gradient_sync")
    assert finding.layers == (BLOCKS[3],)
    assert finding.ranks == (1,)
    assert 101 <= finding.since_step <= 125
    assert finding.detected_step == 125


def test_a_sample_dates_what_steps_only_meet_by_chance():
    """The first sample shows the block from the first step on; the moving fingerprint of the steps meets it later."""

    def from_third(columns):
        rows = columns.step >= 3
        columns.gradient_fingerprint[rows] += np.arange(columns.gradient_fingerprint.shape[1])

    def block(step, rank, record):
        prints = list(record.gradient_fingerprints)
        prints[3] ^= rank + 1
        return replace(record, gradient_fingerprints=tuple(prints))

    analysis = analyze(Job(steps=40, faults=(from_third,), sample_fault=block))
    finding = one(analysis, "missing_gradient_sync")
    assert finding.since_step == 0
    assert finding.detected_step <= 4
    assert "replica_desync" not in kinds(analysis)


def accumulation(columns):
    """DDP synchronises once an optimizer step, the wrapper was run three times more under `no_sync`."""
    columns.forward_seconds *= 4


def own_loss_scale(columns):
    """Losses that are no number, with gradients whose bits then differ."""
    rows = columns.step >= FROM
    columns.loss_sum[rows] = np.nan
    columns.gradient_fingerprint[rows] += np.arange(columns.gradient_fingerprint.shape[1])


def by_hand(columns):
    """DDP's count stands still, but gradients are averaged by the script itself."""
    columns.ddp_iteration[columns.step >= FROM] = FROM


def some_prints_missing(columns):
    """Two ranks take no fingerprints."""
    columns.gradient_fingerprint[:, :2] = -1


@pytest.mark.parametrize(
    "faults",
    [
        (),
        (accumulation,),
        (own_loss_scale,),
        (by_hand,),
        (by_hand, no_prints),
        (some_prints_missing,),
        (no_prints,),
    ],
    ids=["healthy", "accumulation", "nan", "by hand", "by hand without prints", "some prints", "no prints"],
)
def test_what_looks_like_it_and_is_not(faults):
    """Healthy twins give nothing about synchronisation."""
    assert "missing_gradient_sync" not in kinds(analyze(Job(faults=faults, sample_period=0)))


@pytest.mark.parametrize(
    "parallelism", [Parallelism.SHARDED, Parallelism.LOCAL, Parallelism.SINGLE, Parallelism.UNSPECIFIED]
)
def test_ranks_that_are_meant_to_differ_are_left_alone(parallelism):
    """Sharded, deliberately local and single jobs have gradients that differ."""
    job = Job(parallelism=parallelism, faults=(unsynchronised(),), sample_period=0)
    assert kinds(analyze(job)) == set()


def test_a_single_process_is_left_alone():
    """One rank has nobody to average with."""
    assert kinds(analyze(Job(ranks=1, faults=(unsynchronised(),)))) == set()


def test_a_model_that_was_never_wrapped_is_a_warning():
    """Several processes without DDP whose gradients differ from the start: a warning that says what is missing."""
    job = Job(parallelism=Parallelism.UNWRAPPED, faults=(unsynchronised(since=0),), sample_period=0)
    finding = one(analyze(job), "missing_gradient_sync")
    assert finding.severity == "warning"
    assert finding.evidence["form"] == "unwrapped"
    assert "not wrapped" in finding.reason


def test_an_unwrapped_model_that_is_averaged_by_hand_gives_nothing():
    """Equal gradients acquit, wrapped or not."""
    assert kinds(analyze(Job(parallelism=Parallelism.UNWRAPPED, sample_period=0))) == set()
