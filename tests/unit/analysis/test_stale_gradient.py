"""Old gradients: how old, since when, on which ranks, in which form; and what must not be taken for one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.core.inputs import Parallelism
from support.simulation import Job, analyze, kinds, one, probed

FROM = 120
CARRIED, EDITED = -3, -2


def old(lag, ranks=None, since=FROM, until=10**9):
    """Ranks apply the gradient of `lag` steps before; None: the same one again and again."""

    def fault(columns):
        for rank in range(columns.gradient_lag.shape[1]) if ranks is None else ranks:
            rows = (columns.step >= since) & (columns.step < until)
            age = columns.step[rows] - since + 1 if lag is None else lag
            columns.gradient_lag[rows, rank] = age
            columns.gradient_scale[rows, rank] = np.nan
            columns.gradient_fingerprint[rows, rank] = columns.step[rows] - age

    return fault


@pytest.mark.parametrize("lag", [1, 2, 5])
@pytest.mark.parametrize("ranks", [2, 8])
def test_a_delay_on_all_ranks_is_dated_exactly_and_its_age_told(lag, ranks):
    """Three steps are enough; the finding begins with the first and says how old the gradient is."""
    analysis = analyze(Job(ranks=ranks, faults=(probed, old(lag))))
    finding = one(analysis, "stale_gradient")
    assert (finding.since_step, finding.detected_step) == (FROM, FROM + 2)
    assert (finding.evidence["form"], finding.evidence["lag_steps"]) == ("delayed", lag)
    assert finding.ranks == tuple(range(ranks))
    assert "all ranks" in finding.reason
    assert kinds(analysis) == {"stale_gradient"}


@pytest.mark.parametrize("ranks", [2, 4])
def test_one_rank_with_an_old_gradient_is_named_and_nothing_else_is_called(ranks):
    """Its gradient differs from the others', its replica drifts away: both are what an old gradient does."""

    def differ(step, rank, record):
        if step < FROM or rank != 1:
            return record
        return replace(
            record,
            gradient_fingerprints=tuple(print_ ^ 1 for print_ in record.gradient_fingerprints),
            parameter_fingerprints=tuple(print_ ^ 1 for print_ in record.parameter_fingerprints),
        )

    analysis = analyze(Job(ranks=ranks, steps=260, faults=(probed, old(2, [1])), sample_fault=differ))
    assert one(analysis, "stale_gradient").ranks == (1,)
    assert kinds(analysis) == {"stale_gradient"}


def test_a_frozen_gradient_grows_old():
    """The same gradient again and again is another form than a constant delay."""
    finding = one(analyze(Job(faults=(probed, old(None)))), "stale_gradient")
    assert finding.evidence["form"] == "frozen"
    assert (finding.since_step, finding.detected_step) == (FROM, FROM + 2)


def test_gradients_that_are_not_cleared_are_called_from_the_steps_themselves():
    """Each backward adds to what was there."""

    def forgotten(columns):
        columns.gradient_lag[columns.step >= FROM] = CARRIED

    finding = one(analyze(Job(faults=(probed, forgotten))), "stale_gradient")
    assert (finding.evidence["form"], finding.since_step, finding.detected_step) == (
        "uncleared",
        FROM,
        FROM + 2,
    )


def carrying(ranks=range(99), since=FROM, samples=10**9):
    """Something is left in the gradients of some parameters before the first backward."""

    def fault(step, rank, record):
        late = since <= step < since + 25 * samples and rank in ranks
        return replace(record, carried_gradient_square=0.25 * record.reduced_gradient_square * late)

    return fault


def test_a_part_that_is_not_cleared_is_called_from_two_samples():
    """Only samples show parameters that zero_grad misses; the sentence says how much of the gradient they are."""
    finding = one(analyze(Job(faults=(probed,), sample_fault=carrying([2]))), "stale_gradient")
    assert finding.evidence["form"] == "partly uncleared"
    assert finding.ranks == (2,)
    assert "25 %" in finding.reason
    assert abs(finding.since_step - FROM) <= 13
    assert finding.detected_step <= FROM + 50


def anchored(lag, *, frozen=False):
    """Reductions that return the mean gradient of `lag` steps before from FROM on."""

    def local(step, rank):
        return np.random.default_rng((5, max(step, 0), rank)).normal(size=4)

    def fault(step, rank, record):
        late = step >= FROM
        source = FROM if frozen and late else step - lag if late else step
        return replace(
            record,
            anchor_elements=4,
            local_anchors=tuple(np.concatenate([local(step - back, rank) for back in range(17)])),
            produced_anchor=tuple(np.mean([local(source, each) for each in range(4)], axis=0)),
        )

    return fault


@pytest.mark.parametrize("lag", [1, 5, 16])
def test_a_reduction_that_hands_out_old_gradients_is_called_from_two_samples(lag):
    """The optimizer sees what the reduction returned, so only its comparison with the local gradients shows it."""
    analysis = analyze(Job(steps=240, faults=(probed,), sample_fault=anchored(lag)))
    finding = one(analysis, "stale_gradient")
    assert (finding.evidence["form"], finding.evidence["lag_steps"]) == ("delayed reduction", lag)
    assert abs(finding.since_step - FROM) <= 13
    assert kinds(analysis) == {"stale_gradient"}


def test_a_reduction_that_returns_the_same_for_good_is_called():
    """What it returns is that of no step in sight, and the same as on the sample before."""
    analysis = analyze(Job(steps=260, faults=(probed,), sample_fault=anchored(0, frozen=True)))
    assert one(analysis, "stale_gradient").evidence["form"] == "frozen reduction"


def twice(columns):
    """optimizer.step is called twice a backward."""
    columns.optimizer_steps[columns.step >= FROM] = 2


def test_gradients_that_are_applied_twice_are_repeated():
    """All ranks alike: the replicas agree, and the gradient is applied again."""
    finding = one(analyze(Job(faults=(probed, twice))), "stale_gradient")
    assert (finding.evidence["form"], finding.since_step, finding.detected_step) == (
        "repeated",
        FROM,
        FROM + 2,
    )


def test_it_resolves_after_fifty_fresh_steps():
    """Once gradients are fresh again, the finding stays for fifty steps and then resolves."""
    finding = one(analyze(Job(steps=300, faults=(probed, old(1, until=FROM + 30)))), "stale_gradient")
    assert finding.status == "resolved"
    assert FROM + 79 <= finding.resolved_step <= FROM + 85


def now_and_then(columns):
    """An old gradient on two steps in a row, time and again."""
    columns.gradient_lag[columns.step % 10 < 2] = 1


def edited(columns):
    """Noise is added to all gradients."""
    columns.gradient_lag[:] = EDITED
    columns.gradient_fingerprint[:] += 1


def unscaled(columns):
    """A loss scale is taken out, and gradients are clipped."""
    columns.gradient_scale[:] = 2.0**-16 * np.minimum(1.0, 0.5 + columns.step[:, None] / 100)
    columns.gradient_fingerprint[:] += 1


def sometimes_twice(columns):
    """An optimizer that steps twice now and then, by design."""
    columns.optimizer_steps[columns.step % 5 == 0] = 2


@pytest.mark.parametrize("fault", [now_and_then, edited, unscaled, sometimes_twice, lambda _: None])
def test_what_looks_like_it_and_is_not(fault):
    """Healthy twins give nothing."""
    assert kinds(analyze(Job(faults=(probed, fault)))) == set()


@pytest.mark.parametrize("fault", [carrying(samples=1), anchored(0)])
def test_one_sample_and_fresh_reductions_are_nothing(fault):
    """Something left over once, as at the end of an epoch, is not a habit."""
    assert kinds(analyze(Job(faults=(probed,), sample_fault=fault))) == set()


def test_compression_is_no_old_gradient():
    """A hook that keeps only the direction of two of four elements explains little of the gradient, and nothing older."""

    def compressed(step, rank, record):
        record = anchored(0)(step, rank, record)
        first, second, *_ = record.produced_anchor
        return replace(record, produced_anchor=(first, second, 0.0, 0.0))

    assert kinds(analyze(Job(steps=400, faults=(probed,), sample_fault=compressed))) == set()


@pytest.mark.parametrize("parallelism", [Parallelism.SINGLE, Parallelism.SHARDED, Parallelism.LOCAL])
def test_a_single_process_and_shards_have_old_gradients_too(parallelism):
    """The comparison is within a rank."""
    ranks = 1 if parallelism is Parallelism.SINGLE else 4
    analysis = analyze(Job(ranks=ranks, parallelism=parallelism, faults=(probed, old(1))))
    assert kinds(analysis) == {"stale_gradient"}
