"""Accumulation that is not what was declared, costs or scales too much; and changes of it that are in order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.lanes import mostly_in_suites
from support.simulation import Job, analyze, kinds, one, play, restarted

FROM = 100
SIGNAL, NOISE = 2.0, 40.0
"""Squared norm of the gradient itself, and its noise in one sample."""
TRUE_AS_WELL = {"batch_beyond_critical"}
"""With this noise the critical batch is 20 samples: accumulated batches of hundreds are far beyond it."""


def accumulating(count, since=0, until=10**9, synchronised=1):
    """So many micro-batches of 8 samples a step."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until)
        columns.micro_batches[rows] = count
        columns.samples[rows] *= count
        columns.loss_sum[rows] *= count
        more = np.cumsum(np.where(rows, synchronised - 1, 0))[:, None]
        columns.ddp_iteration += more
        columns.collectives += 3 * more

    return fault


def gradients(counts, scales, ranks=4, noise=NOISE, seed=1):
    """Norms of a job that accumulates `counts` micro-batches with a factor, before and from step `FROM` on."""

    def fault(step, rank, record):
        late = step >= FROM
        count, scale = counts[late], scales[late]
        own = np.random.default_rng((seed, step, rank))
        shared = np.random.default_rng((seed, step))
        samples = 8.0 * count
        local = scale**2 * (SIGNAL + noise / samples) * own.lognormal(0, 0.15)
        reduced = scale**2 * (SIGNAL + noise / samples / ranks) * shared.lognormal(0, 0.15)
        return replace(record, samples=samples, local_gradient_square=local, reduced_gradient_square=reduced)

    return fault


def test_another_count_than_declared_is_found():
    """8 are declared, 2 are made."""
    analysis = analyze(Job(steps=120, accumulation_steps=8, faults=(accumulating(2),), sample_period=0))
    finding = one(analysis, "accumulation_mismatch")
    assert finding.since_step == 0
    assert finding.detected_step <= 45
    assert finding.evidence["form"] == "declared count"
    assert "2 micro-batches instead of the declared 8" in finding.reason
    assert kinds(analysis) == {"accumulation_mismatch"}


def test_it_resolves_when_the_count_is_right():
    """One window of the declared count."""
    faults = (accumulating(4, until=100), accumulating(8, since=100))
    job = Job(steps=200, accumulation_steps=8, faults=faults, sample_period=0)
    finding = one(analyze(job), "accumulation_mismatch")
    assert finding.status == "resolved"
    assert 100 < finding.resolved_step <= 140


@pytest.mark.parametrize(("declared", "severity"), [(4, "warning"), (0, "info")])
def test_a_synchronisation_for_every_micro_batch_is_found(declared, severity):
    """no_sync does not act: communication is wasted, a warning only where accumulation was declared."""
    fault = accumulating(4, since=60, synchronised=4)
    job = Job(
        steps=200, accumulation_steps=declared, faults=(fault, accumulating(4, until=60)), sample_period=0
    )
    finding = one(analyze(job), "accumulation_mismatch")
    assert finding.severity == severity
    assert finding.evidence["synchronisations_per_step"] == 4
    assert abs(finding.since_step - 60) <= 2


@pytest.mark.parametrize("noise", [0.0, NOISE, 2000.0])
@pytest.mark.parametrize(
    ("before", "after", "scale", "undivided"),
    [(1, 4, 4.0, True), (4, 8, 2.0, True), (8, 2, 0.25, True), (1, 4, 0.25, False), (8, 2, 4.0, False)],
)
def test_a_loss_that_is_not_divided_shows_when_the_count_changes(noise, before, after, scale, undivided):
    """Whatever the noise: the norm follows the count, or its inverse."""
    job = Job(
        steps=260,
        sample_period=8,
        faults=(accumulating(before, until=FROM), accumulating(after, since=FROM)),
        sample_fault=gradients((before, after), (1.0, scale), noise=noise),
    )
    finding = one(analyze(job), "accumulation_mismatch")
    assert finding.evidence["form"] == "loss scale"
    assert ("not divided" in finding.reason) == undivided
    assert abs(finding.since_step - FROM) <= 8


def test_a_division_that_gets_lost_shows_in_norms_that_jump_by_the_declared_count():
    """The count stays 4, and from a step on gradients are 4 times what they were."""
    job = Job(
        steps=260,
        sample_period=8,
        accumulation_steps=4,
        faults=(accumulating(4),),
        sample_fault=gradients((4, 4), (1.0, 4.0)),
    )
    finding = one(analyze(job), "accumulation_mismatch")
    assert finding.evidence["norm_ratio"] == pytest.approx(4, rel=0.2)
    assert abs(finding.since_step - FROM) <= 8


def test_a_division_that_got_lost_over_a_restart_is_found():
    """Settings change between attempts: norms are remembered over them."""
    first = Job(
        steps=96, sample_period=8, faults=(accumulating(1),), sample_fault=gradients((1, 1), (1.0, 1.0))
    )
    analysis = analyze(first)
    second = restarted(
        first,
        first_step=96,
        steps=120,
        faults=(accumulating(4),),
        sample_fault=gradients((4, 4), (4.0, 4.0)),
    )
    play(analysis, second, 1_700_001_000.0)
    assert one(analysis, "accumulation_mismatch").evidence["form"] == "loss scale"


@pytest.mark.parametrize("noise", mostly_in_suites([NOISE, 0.0, 2000.0]))
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 16), (4, 6)])
def test_a_count_that_changes_with_its_division_is_in_order(noise, before, after):
    """A larger batch has less noise, and the same gradient."""
    for seed in range(3):
        job = Job(
            steps=300,
            sample_period=8,
            faults=(accumulating(before, until=FROM), accumulating(after, since=FROM)),
            sample_fault=gradients((before, after), (1.0, 1.0), noise=noise, seed=seed),
        )
        assert kinds(analyze(job)) <= TRUE_AS_WELL


def epoch_ends(columns):
    """Every epoch of 20 steps ends with 2 micro-batches instead of 8, and a gradient of a quarter."""
    columns.micro_batches[columns.step % 20 == 16] = 2


def scaled(step, rank, record):
    """A loss scale that doubles and halves, undone before the optimizer sees the gradient."""
    factor = 4.0 ** ((step // 40) % 3)
    return replace(record, local_gradient_square=record.local_gradient_square * factor)


@pytest.mark.parametrize(
    ("faults", "sample_fault", "declared"),
    [
        ((accumulating(8),), None, 8),
        ((accumulating(8), epoch_ends), gradients((8, 8), (1.0, 1.0)), 8),
        ((accumulating(2),), scaled, 2),
        ((accumulating(2, synchronised=2),), None, 0),
        ((accumulating(2),), None, 1),
        ((accumulating(4),), None, 0),
    ],
)
def test_accumulation_in_order_is_not_called(faults, sample_fault, declared):
    """As declared, with short epochs' ends, a moving loss scale, two losses a step (a GAN), and undeclared under no_sync."""
    job = Job(
        steps=300, sample_period=8, faults=faults, sample_fault=sample_fault, accumulation_steps=declared
    )
    assert kinds(analyze(job)) <= TRUE_AS_WELL
