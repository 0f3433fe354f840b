"""Ranks that train on the same samples: found by inputs, by gradient norms, suspected by agreement; and what only looks like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.core.inputs import Parallelism
from support.simulation import Job, analyze, kinds, one

FROM = 61


def same(*group, since=FROM, until=10**9):
    """From a step on, the ranks of a group have the inputs and the loss of the first of them."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until)
        for rank in group[1:]:
            columns.input_fingerprint[rows, rank] = columns.input_fingerprint[rows, group[0]]
            columns.loss_sum[rows, rank] = columns.loss_sum[rows, group[0]]

    return fault


def unknown(columns):
    """No rank knows its inputs."""
    columns.input_fingerprint[:] = -1


def same_norms(*group, since=0):
    """The ranks of a group have the local gradient of the first of them."""

    def fault(step, rank, record):
        if rank not in group[1:] or step < since:
            return record
        norm = Job(seed=1).sample(step, group[0]).local_gradient_square
        return replace(record, local_gradient_square=norm)

    return fault


@pytest.mark.parametrize("ranks", [2, 4, 64])
def test_all_ranks_with_the_same_inputs_are_found(ranks):
    """However many ranks, one is effective; the onset is exact to a window's eighth."""
    job = Job(ranks=ranks, steps=160, faults=(same(*range(ranks)),))
    finding = one(analyze(job), "duplicate_shards")
    assert finding.ranks == tuple(range(ranks))
    assert finding.evidence["distinct_ranks"] == 1
    assert finding.evidence["effective_batch_size"] == pytest.approx(8)
    assert abs(finding.since_step - FROM) <= 3
    assert finding.detected_step <= FROM + 48
    assert kinds(analyze(job)) == {"duplicate_shards"}


def test_groups_of_equal_ranks_are_told_apart():
    """Two pairs among six ranks: four are distinct."""
    finding = one(analyze(Job(ranks=6, steps=200, faults=(same(0, 3), same(1, 5)))), "duplicate_shards")
    assert finding.ranks == (0, 1, 3, 5)
    assert (finding.evidence["group_0"], finding.evidence["group_1"]) == ((0, 3), (1, 5))
    assert finding.evidence["distinct_ranks"] == 4
    assert "Of 6 ranks only 4" in finding.reason


def test_it_resolves_when_ranks_get_samples_of_their_own():
    """Two windows without it."""
    finding = one(analyze(Job(steps=400, faults=(same(0, 1, 2, 3, until=200),))), "duplicate_shards")
    assert finding.status == "resolved"
    assert 200 < finding.resolved_step <= 272


def test_where_inputs_are_not_known_equal_norms_decide():
    """Four sampled steps with bit-identical local norms on the same ranks."""
    job = Job(steps=200, sample_period=10, faults=(unknown,), sample_fault=same_norms(1, 2))
    finding = one(analyze(job), "duplicate_shards")
    assert finding.ranks == (1, 2)
    assert finding.evidence["decided_by"] == "gradient norms"
    assert finding.evidence["distinct_ranks"] == 3


def one_loss(columns):
    """Every rank logs the all-reduced loss."""
    columns.loss_sum[:] = columns.loss_sum.mean(axis=1, keepdims=True)


def constant(columns):
    """The same dummy input at every step, on all ranks."""
    columns.input_fingerprint[:] = 4711


def padded(columns):
    """Every epoch of 20 steps ends with a batch that all ranks share."""
    rows = columns.step % 20 == 19
    columns.input_fingerprint[rows] = columns.input_fingerprint[rows, :1]


def noiseless(step, rank, record):
    """A batch so large that ranks agree to 0.98."""
    return replace(record, local_gradient_square=2.04 + 1e-3 * rank, reduced_gradient_square=2.0)


@pytest.mark.parametrize(
    ("faults", "sample_fault"),
    [
        ((one_loss,), None),
        ((constant,), None),
        ((padded,), None),
        ((one_loss, unknown), noiseless),
        ((unknown,), noiseless),
    ],
)
def test_what_only_looks_like_it_is_not_called(faults, sample_fault):
    """The all-reduced loss, a constant input, padding, and gradients with little noise are in order."""
    job = Job(steps=400, sample_period=5, faults=faults, sample_fault=sample_fault)
    # Gradients without noise make any batch larger than it need be, which may be said.
    assert kinds(analyze(job)) <= {"batch_beyond_critical"}


@pytest.mark.parametrize("parallelism", [Parallelism.SHARDED, Parallelism.UNWRAPPED])
def test_ranks_that_share_a_batch_on_purpose_are_left_alone(parallelism):
    """Sharded ranks may work on one batch; unwrapped ones need not belong together."""
    job = Job(steps=200, parallelism=parallelism, faults=(same(0, 1, 2, 3),))
    assert "duplicate_shards" not in kinds(analyze(job))


def test_ranks_that_are_no_replicas_of_one_another_are_left_alone():
    """Tensor-parallel partners under DDP get one batch and have other gradients, on purpose."""

    def partners(columns):
        columns.gradient_fingerprint[:, [1, 3]] += 5

    job = Job(steps=200, faults=(same(0, 1, since=0), same(2, 3, since=0), partners))
    assert "duplicate_shards" not in kinds(analyze(job))


def test_behind_augmentation_it_is_only_a_suspicion():
    """Gradients that agree and losses that move as one are mentioned, as `info`."""

    def alike(columns):
        rng = np.random.default_rng(1)
        moves = 1 + 0.2 * rng.standard_normal((len(columns.step), 1))
        columns.loss_sum[:] = 16 * moves * (1 + 0.005 * rng.standard_normal(columns.loss_sum.shape))

    job = Job(steps=300, sample_period=5, faults=(alike,), sample_fault=noiseless)
    finding = one(analyze(job), "duplicate_shards")
    assert finding.severity == "info"
    assert finding.evidence["decided_by"] == "agreement"
    assert finding.evidence["loss_correlation"] > 0.95
