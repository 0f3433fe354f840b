"""A rank whose loss or gradient is off from its peers; and ranks that merely vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.lanes import mostly_in_suites
from support.simulation import Job, analyze, kinds, one

FROM = 110


def off(rank, factor, since=FROM, until=10**9):
    """One rank's loss is so many times that of the others."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until)
        columns.loss_sum[rows, rank] *= factor

    return fault


def norms(rank, factor, since=0):
    """One rank's local gradient norm is so many times that of the others."""

    def fault(step, which, record):
        if which != rank or step < since:
            return record
        return replace(record, local_gradient_square=record.local_gradient_square * factor**2)

    return fault


@pytest.mark.parametrize(("ranks", "factor"), [(3, 1.3), (4, 1.3), (8, 1.2), (64, 1.2), (4, 0.6)])
@pytest.mark.parametrize("seed", range(3))
def test_a_rank_whose_loss_is_off_is_named(ranks, factor, seed):
    """Which one, since when, by how much, to either side; nobody else."""
    job = Job(ranks=ranks, steps=400, seed=seed, faults=(off(1, factor),), sample_period=0, batch_steps=20)
    analysis = analyze(job)
    finding = one(analysis, "rank_outlier")
    assert finding.ranks == (1,)
    assert abs(finding.since_step - FROM) <= 10
    assert finding.detected_step < FROM + 150
    assert finding.evidence["loss_excess"] / finding.evidence["loss_level"] == pytest.approx(
        factor - 1, abs=0.05
    )
    assert kinds(analysis) == {"rank_outlier"}


def test_one_of_a_thousand_ranks_is_named():
    """20 % on one of 1,024."""
    job = Job(ranks=1024, steps=250, faults=(off(700, 1.2),), sample_period=0, batch_steps=50)
    assert one(analyze(job), "rank_outlier").ranks == (700,)


def test_what_grows_is_named_by_two_windows_together():
    """A loss that is off by 5 % in one window, which is not enough, and by 15 % in the next, which would have to last."""
    job = Job(steps=205, faults=(off(1, 1.05, since=100), off(1, 1.1, since=150)), sample_period=0)
    finding = one(analyze(job), "rank_outlier")
    assert finding.ranks == (1,)
    assert abs(finding.since_step - 100) <= 60
    short = Job(steps=205, faults=(off(1, 1.15, since=150),), sample_period=0)
    assert "rank_outlier" not in kinds(analyze(short))


def test_of_two_ranks_neither_is_the_odd_one():
    """Both are named, with less confidence, and only when they differ by half."""
    finding = one(analyze(Job(ranks=2, steps=300, faults=(off(1, 2.0),), sample_period=0)), "rank_outlier")
    assert finding.ranks == (0, 1)
    assert finding.confidence < 0.7
    assert not kinds(analyze(Job(ranks=2, steps=300, faults=(off(1, 1.2),), sample_period=0)))


def test_it_resolves_when_the_rank_is_like_the_others():
    """Four windows without it."""
    finding = one(analyze(Job(steps=700, faults=(off(2, 1.5, until=300),), sample_period=0)), "rank_outlier")
    assert finding.status == "resolved"
    assert 300 < finding.resolved_step <= 550


@pytest.mark.parametrize(("ranks", "factor"), [(4, 3.0), (8, 1.6), (64, 1.6), (3, 20.0)])
def test_a_rank_whose_gradients_are_off_is_named(ranks, factor):
    """Local norms of eight sampled steps."""
    job = Job(ranks=ranks, steps=240, sample_period=8, sample_fault=norms(2, factor, since=56))
    finding = one(analyze(job), "rank_outlier")
    assert finding.ranks == (2,)
    assert finding.evidence["norm_ratio"] == pytest.approx(factor, rel=0.2)
    assert abs(finding.since_step - 56) <= 8


def test_spikes_that_keep_coming_from_one_rank_are_named():
    """Three gradients of a thousand times the norm, one at a time, on the same rank."""

    def fault(step, which, record):
        wild = which == 3 and step in {80, 160, 240}
        return replace(record, local_gradient_square=record.local_gradient_square * 1e6) if wild else record

    finding = one(analyze(Job(steps=300, sample_period=8, sample_fault=fault)), "rank_outlier")
    assert finding.ranks == (3,)
    assert finding.evidence["spikes"] == 3
    assert finding.since_step == 80


def one_loss(columns):
    """Every rank logs the all-reduced loss."""
    columns.loss_sum[:] = columns.loss_sum.mean(axis=1, keepdims=True)


def heavy(columns):
    """Losses of small batches with a long tail, and few samples on rank 1."""
    rng = np.random.default_rng(9)
    shape = columns.loss_sum.shape
    columns.loss_sum[:] = 8 * rng.lognormal(0, 1, (8, *shape)).mean(axis=0)
    columns.loss_sum[:, 1] = rng.lognormal(0, 1, shape[0])
    columns.samples[:, 1] = 1.0


def drifting(columns):
    """Each rank reads its shard in order: neighbouring batches are alike."""
    rng = np.random.default_rng(11)
    noise = rng.standard_normal(columns.loss_sum.shape)
    for row in range(1, len(noise)):
        noise[row] = 0.9 * noise[row - 1] + np.sqrt(1 - 0.81) * noise[row]
    columns.loss_sum[:] *= np.exp(0.05 * noise)


def shards(columns):
    """Every rank has a language of its own."""
    count = columns.loss_sum.shape[1]
    columns.loss_sum[:] *= 1 + 0.3 * np.linspace(-1, 1, count)


def vanishing(columns):
    """The loss has all but vanished, and what is left differs from shard to shard."""
    fall = np.exp(-columns.step / 60)[:, None]
    columns.loss_sum[:] *= fall
    columns.loss_sum[:, 0] *= 1 + (fall[:, 0] < 0.01)


def spiking(step, which, record):
    """Any rank meets a wild batch now and then."""
    wild = (step // 8) % 11 == 3 and which == (step // 88) % 4
    return replace(record, local_gradient_square=record.local_gradient_square * 1e6) if wild else record


@pytest.mark.parametrize("fault", [one_loss, heavy, drifting, shards, vanishing])
@pytest.mark.parametrize("ranks", [4, 8])
def test_ranks_that_vary_are_not_called(fault, ranks):
    """The all-reduced loss, long tails, drifting shards, shards of different kinds, and what is left of a fitted loss."""
    analysis = analyze(Job(ranks=ranks, steps=800, faults=(fault,), sample_period=0, batch_steps=20))
    assert "rank_outlier" not in kinds(analysis)


@pytest.mark.parametrize("ranks", [3, 4, 8])
@pytest.mark.parametrize("seed", mostly_in_suites(range(4)))
def test_norms_that_vary_a_lot_are_not_called(ranks, seed):
    """A model that fits its data gets large gradients from few samples: norms differ by factors from step to step."""
    rng = np.random.default_rng(seed)

    def heavy_tailed(_step, _which, record):
        factor = float(rng.lognormal(0.0, 1.0))
        return replace(record, local_gradient_square=record.local_gradient_square * factor**2)

    job = Job(ranks=ranks, steps=1200, seed=seed, sample_period=8, sample_fault=heavy_tailed)
    assert "rank_outlier" not in kinds(analyze(job))


def test_single_spikes_of_any_rank_are_not_called():
    """Every rank has one now and then."""
    assert not kinds(analyze(Job(steps=400, sample_period=8, sample_fault=spiking)))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", mostly_in_suites([4, 64, 3, 8], 2))
def test_healthy_jobs_have_no_outlier(ranks):
    """Jobs of 800 steps, noisy and less so."""
    for seed in range(2 if ranks == 64 else 6):

        def noisy(columns, seed=seed):
            rng = np.random.default_rng(seed)
            columns.loss_sum[:] *= rng.lognormal(0, 0.02 + 0.05 * (seed % 4), columns.loss_sum.shape)

        job = Job(ranks=ranks, steps=800, seed=seed, faults=(noisy,), sample_period=8, batch_steps=40)
        assert "rank_outlier" not in kinds(analyze(job))
