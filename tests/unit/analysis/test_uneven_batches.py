"""Ranks with unequal samples that are averaged as equal, ranks that run out of data; and unevenness that is in order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.core.inputs import Phase
from support.simulation import START, Job, analyze, beat_all, kinds, one, play

FROM = 60


def samples_of(rank, samples, since=FROM, until=10**9):
    """One rank contributes other samples, with the same mean loss."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until)
        columns.loss_sum[rows, rank] *= samples / columns.samples[rows, rank]
        columns.samples[rows, rank] = samples

    return fault


def norms_of(rank, factor):
    """The local gradient norm of one rank."""

    def fault(step, which, record):
        record = replace(record, samples=2.0 if which == rank else 8.0)
        square = record.local_gradient_square * (factor**2 if which == rank else 1.0)
        return replace(record, local_gradient_square=square)

    return fault


@pytest.mark.parametrize(("ranks", "samples"), [(2, 2), (4, 2), (4, 16), (64, 5)])
def test_a_rank_with_other_samples_is_named_with_its_weight(ranks, samples):
    """Too few or too many: which rank, since when, and how much its samples count."""
    analysis = analyze(Job(ranks=ranks, steps=200, faults=(samples_of(1, samples),), sample_period=0))
    finding = one(analysis, "uneven_batches")
    assert finding.ranks == ((0, 1) if ranks == 2 else (1,))
    assert abs(finding.since_step - FROM) <= 5
    assert finding.detected_step <= FROM + 80
    overall = (8 * (ranks - 1) + samples) / ranks
    weight = finding.evidence["weight_heaviest" if samples < 8 else "weight_lightest"]
    assert weight == pytest.approx(overall / samples)
    assert kinds(analysis) == {"uneven_batches"}


def test_local_gradients_that_do_not_grow_with_the_samples_confirm_it():
    """A quarter of the samples with a noisier gradient: it is a plain mean."""
    job = Job(steps=200, faults=(samples_of(1, 2, since=0),), sample_period=8, sample_fault=norms_of(1, 1.4))
    finding = one(analyze(job), "uneven_batches")
    assert finding.evidence["weighted_by_samples"] is False


def test_a_loss_that_is_weighted_by_samples_is_left_alone():
    """Where a quarter of the samples come with a gradient that is smaller by as much, the average is right."""
    for factor in (0.25, 0.5):
        job = Job(
            steps=200, faults=(samples_of(1, 2, since=0),), sample_period=8, sample_fault=norms_of(1, factor)
        )
        assert not kinds(analyze(job))


def test_it_resolves_when_batches_are_even_again():
    """Two even windows."""
    finding = one(
        analyze(Job(steps=400, faults=(samples_of(2, 3, until=200),), sample_period=0)), "uneven_batches"
    )
    assert finding.status == "resolved"
    assert 200 < finding.resolved_step <= 260


def lengths(sigma):
    """Every rank's batches vary in length around the same mean."""

    def fault(columns):
        rng = np.random.default_rng(5)
        lengths = rng.lognormal(math.log(1000), sigma, columns.samples.shape)
        columns.loss_sum[:] *= lengths / columns.samples
        columns.samples[:] = lengths

    return fault


def last_batches(columns):
    """Every epoch of 25 steps ends in a small batch on rank 0, and without a sample on rank 3."""
    rows = columns.step % 25 == 24
    columns.samples[rows, 0], columns.samples[rows, 3] = 1.0, 0.0
    columns.loss_sum[rows, 0] /= 8
    columns.loss_sum[rows, 3] = np.nan


def joined(columns):
    """Rank 3 has no data left for the last 80 steps (Join)."""
    rows = columns.step >= 120
    columns.samples[rows, 3] = 0.0
    columns.loss_sum[rows, 3] = np.nan
    columns.micro_batches[rows, 3] = 0


def silent(columns):
    """Only rank 0 logs."""
    columns.samples[:, 1:] = 0.0
    columns.loss_sum[:, 1:] = np.nan


@pytest.mark.parametrize("fault", [lengths(0.1), lengths(0.5), lengths(1.0), last_batches, joined, silent])
@pytest.mark.parametrize("ranks", [4, 32])
def test_unevenness_that_is_in_order_is_not_called(fault, ranks):
    """Variable lengths, last batches, Join, and ranks that do not log."""
    assert not kinds(analyze(Job(ranks=ranks, steps=400, faults=(fault,), sample_period=0)))


def finish_early(phase):
    """Rank 1 is done after 50 steps, the others are in a phase of the next one, for half a minute."""
    job = Job(ranks=3, steps=50, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    analysis.goodbye(now, 1, job.incarnation + 1, "finished", 49)
    for second in range(1, 26):
        beat_all(analysis, job, now + second, phase, last_step=49, phase_seconds=float(second), ranks=(0, 2))
        analysis.tick(now + second)
    return analysis


def test_a_rank_that_has_run_out_while_others_wait_is_named():
    """One has said goodbye, the others are in the backward pass of a step that it will not take."""
    finding = one(finish_early(Phase.SYNC), "uneven_batches")
    assert finding.ranks == (1,)
    assert finding.since_step == 50
    assert finding.evidence["form"] == "ran out"
    assert finding.evidence["ranks_waiting"] == (0, 2)
    assert finding.opened_at > START


@pytest.mark.parametrize("phase", [Phase.INPUT, Phase.EVALUATION, Phase.CHECKPOINT, Phase.OPTIMIZER])
def test_ranks_that_save_or_evaluate_after_the_others_are_done_are_in_order(phase):
    """The last ones out."""
    assert not kinds(finish_early(phase))
