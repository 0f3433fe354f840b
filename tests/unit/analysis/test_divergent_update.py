"""The same gradient, different updates: the form, the rank, the first bad step; and what is another finding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.core.inputs import Parallelism
from support.simulation import Job, analyze, kinds, one, probed

FROM = 120


def separated(since=FROM, rank=1):
    """From a step on, the replicas' parameters differ: after that step, and before and after those that follow."""

    def fault(columns):
        columns.parameters_after[columns.step >= since, rank] ^= 1 << 40
        columns.parameters_before[columns.step > since, rank] ^= 1 << 40

    return fault


def drifting(since=FROM, rank=1, *, gradients=False, update=1.0):
    """What samples show of it."""

    def fault(step, who, record):
        if step < since or who != rank:
            return record
        return replace(
            record,
            update_square=record.update_square * update,
            parameter_fingerprints=tuple(print_ ^ 1 for print_ in record.parameter_fingerprints),
            gradient_fingerprints=tuple(print_ ^ gradients for print_ in record.gradient_fingerprints),
        )

    return fault


def other_rate(columns):
    """Rank 1's learning rate is three times the others'."""
    columns.rates[columns.step >= FROM, 1] = 3.0


def clipped(columns):
    """Rank 1 clips."""
    rows = columns.step >= FROM
    columns.gradient_fingerprint[rows, 1] += 1
    columns.gradient_scale[rows, 1] = 0.31


def noisy(columns):
    """Rank 1 changes its gradient beyond a factor."""
    rows = columns.step >= FROM
    columns.gradient_fingerprint[rows, 1] += 1
    columns.gradient_scale[rows, 1] = np.nan
    columns.gradient_lag[rows, 1] = -2


def twice(columns):
    """Rank 1 steps twice a backward."""
    columns.optimizer_steps[columns.step >= FROM, 1] = 2


def skipped(columns):
    """Rank 1 skips a step: from then on its records are those of an iteration later."""
    for name in ("ddp_iteration", "collectives", "gradient_fingerprint", "produced_fingerprint"):
        column = getattr(columns, name)
        late = np.flatnonzero(columns.step >= FROM)
        column[late[:-1], 1] = column[late[1:], 1]
        column[late[-1], 1] += 3 if name == "collectives" else 1


CASES = {
    "learning rate": (other_rate, False, 0),
    "edited gradient": (clipped, True, 0),
    "steps": (twice, False, 0),
    "skipped step": (skipped, True, 1),
    "optimizer": (lambda _: None, False, 0),
}


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("form", CASES)
def test_each_form_is_called_at_once_and_alone(form, ranks):
    """The rank is named by majority, or by what it did; two ranks that only differ are both named."""
    fault, gradients, delay = CASES[form]
    faults = (probed, fault, separated())
    analysis = analyze(Job(ranks=ranks, steps=260, faults=faults, sample_fault=drifting(gradients=gradients)))
    finding = one(analysis, "divergent_update")
    assert finding.evidence["form"] == form
    assert (finding.since_step, finding.detected_step) == (FROM, FROM + delay)
    directed = form in {"steps", "skipped step"}
    assert finding.ranks == ((1,) if directed or ranks > 2 else (0, 1))
    assert finding.severity == "critical"
    assert kinds(analysis) == {"divergent_update"}


def test_the_factor_and_the_rates_are_told():
    """Numbers of the named rank against those of the others."""
    assert "(0.31 against 1)" in one(analyze(Job(faults=(probed, clipped))), "divergent_update").reason
    assert "(0.3 against 0.1)" in one(analyze(Job(faults=(probed, other_rate))), "divergent_update").reason
    beyond = one(analyze(Job(faults=(probed, noisy))), "divergent_update")
    assert beyond.evidence["value"] is None


def test_a_skipped_step_does_not_look_like_missing_synchronisation_in_samples():
    """Samples of equal step numbers are of different iterations from then on."""
    faults = (probed, skipped, separated())
    analysis = analyze(Job(steps=400, faults=faults, sample_fault=drifting(gradients=True)))
    assert kinds(analysis) == {"divergent_update"}
    assert "skipped an optimizer step" in one(analysis, "divergent_update").reason


def test_updates_that_differ_in_size_are_called_without_fingerprints_of_steps():
    """Agents that take no fingerprints at every step: parameters were equal, gradients are, and one update is far larger."""
    analysis = analyze(Job(sample_fault=drifting(update=9.0)))
    finding = one(analysis, "divergent_update")
    assert finding.ranks == (1,)
    assert abs(finding.since_step - FROM) <= 13
    assert kinds(analysis) == {"divergent_update"}


def test_parameters_that_differ_before_the_update_are_a_desync():
    """Weights that are changed between two steps are another finding, and their weight decay makes updates differ a little."""

    def reloaded(columns):
        columns.parameters_after[columns.step >= FROM, 1] ^= 1 << 40
        columns.parameters_before[columns.step >= FROM, 1] ^= 1 << 40

    analysis = analyze(Job(steps=260, faults=(probed, reloaded), sample_fault=drifting(update=1.05)))
    finding = one(analysis, "replica_desync")
    assert finding.since_step == FROM
    assert kinds(analysis) == {"replica_desync"}


def test_an_edit_of_one_layer_is_found_in_a_sample():
    """The fingerprints of steps have not met it; that the other ranks agree says that it was averaged."""

    def layer(step, rank, record):
        if step < FROM or rank != 2:
            return record
        prints = list(record.gradient_fingerprints)
        prints[3] ^= 1
        return replace(record, gradient_fingerprints=tuple(prints))

    analysis = analyze(Job(faults=(probed,), sample_fault=layer))
    finding = one(analysis, "divergent_update")
    assert (finding.ranks, finding.layers) == ((2,), ("head",))
    assert kinds(analysis) == {"divergent_update"}


def test_a_layer_that_differs_on_every_rank_is_missing_synchronisation():
    """Without an average every rank has a gradient of its own."""

    def layer(step, rank, record):
        prints = list(record.gradient_fingerprints)
        prints[3] ^= rank << 3 if step >= FROM else 0
        return replace(record, gradient_fingerprints=tuple(prints))

    assert kinds(analyze(Job(faults=(probed,), sample_fault=layer))) == {"missing_gradient_sync"}


def test_it_resolves_once_replicas_are_equal_again():
    """While parameters differ it stays, though the cause is gone; fifty steps after a broadcast it resolves."""

    def once(columns):
        columns.rates[(columns.step >= FROM) & (columns.step < FROM + 5), 1] = 3.0
        rows = (columns.step > FROM) & (columns.step < 200)
        columns.parameters_before[rows, 1] += 1
        columns.parameters_after[rows, 1] += 1

    finding = one(analyze(Job(steps=300, faults=(probed, once))), "divergent_update")
    assert finding.status == "resolved"
    assert 249 <= finding.resolved_step <= 255


def rounded(columns):
    """Schedules computed by different mathematical libraries."""
    columns.rates[:, 1] *= 1 + 3e-16


def unscaled(columns):
    """All ranks edit their gradients alike."""
    columns.gradient_fingerprint[:] += 1
    columns.gradient_scale[:] = 2.0**-16
    columns.gradient_lag[columns.step % 3 == 0] = -2


def scaler_skips(columns):
    """All ranks skip the same steps."""
    columns.ddp_iteration[columns.step >= FROM] += 1
    columns.collectives[columns.step >= FROM] += 3


def extra_pass(columns):
    """Rank 0 runs the model once more, without a backward, for its log."""
    columns.ddp_iteration[columns.step >= FROM, 0] += 1


def by_hand(columns):
    """The script averages gradients itself, after the backward."""
    columns.produced_fingerprint[:] += np.arange(columns.produced_fingerprint.shape[1])
    columns.gradient_lag[:] = -2


def broken(columns):
    """Losses that are no number."""
    columns.loss_sum[columns.step >= FROM] = np.nan
    columns.parameters_after[columns.step >= FROM, 1] += 1


@pytest.mark.parametrize("fault", [rounded, unscaled, scaler_skips, extra_pass, by_hand, broken])
def test_what_looks_like_it_and_is_not(fault):
    """Healthy twins give nothing about synchronisation."""
    analysis = analyze(Job(faults=(probed, fault)))
    assert not {"divergent_update", "missing_gradient_sync", "replica_desync"} & kinds(analysis)


def test_a_rank_that_missed_one_reduction_is_missing_synchronisation():
    """Its count of synchronised passes falls behind rather than ahead."""

    def slipped(columns):
        late = columns.step >= FROM
        columns.ddp_iteration[late, 1] -= 1
        columns.gradient_fingerprint[late, 1] += 1
        columns.produced_fingerprint[late, 1] += 1

    analysis = analyze(Job(faults=(probed, slipped), sample_period=0))
    assert kinds(analysis) == {"missing_gradient_sync"}


@pytest.mark.parametrize("parallelism", [Parallelism.SHARDED, Parallelism.LOCAL, Parallelism.UNWRAPPED])
def test_ranks_that_are_meant_to_differ_are_left_alone(parallelism):
    """Only replicas are compared."""
    analysis = analyze(Job(parallelism=parallelism, faults=(probed, other_rate, separated())))
    assert "divergent_update" not in kinds(analysis)
