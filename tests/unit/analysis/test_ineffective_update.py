"""Gradients without effect: which form, since when, which part; and what must not be taken for it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stallwatch.detector.checks.ineffective_update import IneffectiveUpdate
from stallwatch.detector.core.inputs import RankHello
from support.simulation import BLOCKS, Job, analyze, kinds, one, probed

FROM = 120


class AdamW(Job):
    """A job that says which optimizer it uses."""

    optimizer = "AdamW"

    def hello(self, rank: int) -> RankHello:
        """Who speaks."""
        return replace(super().hello(rank), optimizer=self.optimizer)


class Custom(AdamW):
    """An optimizer that keeps master weights, for all anybody knows."""

    optimizer = "MasterAdam"


def still(since=FROM, blocks=range(4), *, copied=False):
    """The optimizer does not move some blocks; `copied`: a script moves them after the step."""

    def fault(step, rank, record):
        late = step >= since
        moves = [0.0 if late and block in blocks else 0.0025 for block in range(4)]
        prints = [
            7 if late and block in blocks and not copied else print_
            for block, print_ in enumerate(record.parameter_fingerprints)
        ]
        return replace(
            record,
            update_square=sum(moves),
            update_squares=tuple(moves),
            gradient_squares=(0.5,) * 4,
            parameter_fingerprints=tuple(prints),
        )

    return fault


@pytest.mark.parametrize("since", [0, FROM])
def test_an_optimizer_that_holds_other_tensors_is_called_from_samples(since):
    """Nothing moves, neither in a step nor between samples."""
    analysis = analyze(Job(steps=260, faults=(probed,), sample_fault=still(since)))
    finding = one(analysis, "ineffective_update")
    assert finding.evidence["form"] == "not moved"
    assert abs(finding.since_step - since) <= 13
    assert finding.detected_step <= since + 5 * 25
    assert finding.severity == "critical"
    assert kinds(analysis) == {"ineffective_update"}


def by_rank_0(fault):
    """Norms by block are equal on all replicas, and are told by one."""

    def told(step, rank, record):
        record = fault(step, rank, record)
        return replace(record, gradient_squares=(), update_squares=()) if rank else record

    return told


@pytest.mark.parametrize("teller", [lambda fault: fault, by_rank_0])
def test_a_part_that_the_optimizer_does_not_hold_is_information(teller):
    """It may be meant, so it is told and no more; the blocks are named, whether all ranks tell their norms or one does."""
    analysis = analyze(Job(steps=260, faults=(probed,), sample_fault=teller(still(0, [0, 1]))))
    finding = one(analysis, "ineffective_update")
    assert (finding.severity, finding.layers) == ("info", BLOCKS[:2])


def test_it_resolves_when_parameters_move_again():
    """Two samples with movement."""

    def repaired(step, rank, record):
        return still(FROM)(step, rank, record) if step < 250 else still(10**9)(step, rank, record)

    assert one(analyze(Job(steps=400, sample_fault=repaired)), "ineffective_update").status == "resolved"


def rate(zero, *, until=10**9):
    """The learning rate is 0 from a step on."""

    def fault(columns):
        columns.rates[(columns.step >= zero) & (columns.step < until)] = 0.0

    return fault


def test_a_learning_rate_of_zero_is_called_after_fifty_steps():
    """It says so, and since when."""
    finding = one(analyze(Job(faults=(rate(FROM),), sample_fault=still())), "ineffective_update")
    assert finding.evidence["form"] == "no learning rate"
    assert (finding.since_step, finding.detected_step) == (FROM, FROM + 49)


def lost(share, since=FROM):
    """Half precision leaves a share of the elements as they were."""

    def fault(step, rank, record):
        return replace(record, unchanged_share=share if step >= since else 0.3)

    return fault


def test_updates_below_the_last_bit_are_called_from_three_samples():
    """The share of elements that stay is told."""
    finding = one(analyze(AdamW(steps=260, sample_fault=lost(0.999))), "ineffective_update")
    assert finding.evidence["form"] == "below precision"
    assert "99.9 %" in finding.reason
    assert abs(finding.since_step - FROM) <= 13


def decayed(columns):
    """The learning rate falls to a hundredth of its peak."""
    columns.rates[columns.step >= FROM] = 0.01


@pytest.mark.parametrize(
    "job",
    [
        Job(faults=(rate(0, until=1),), sample_fault=still(10**9)),
        Job(faults=(rate(0, until=60),)),
        Job(steps=200, total_steps=200, faults=(rate(160),)),
        Job(steps=2000, faults=(rate(1920),), sample_period=0),
        Job(
            steps=400,
            faults=(lambda columns: rate(300)(columns) or rate(100, until=101)(columns),),
            total_steps=8000,
        ),
        Job(faults=(rate(FROM),), sample_fault=still(10**9)),
        Job(sample_fault=still(FROM, copied=True)),
        Job(sample_fault=lambda step, _, record: replace(record, unchanged_share=math.nan)),
        AdamW(sample_fault=lost(0.95, 0)),
        AdamW(faults=(decayed,), sample_fault=lost(0.999)),
        Custom(sample_fault=lost(0.999, 0)),
    ],
    ids=[
        "warm-up from 0",
        "a longer warm-up",
        "a declared end",
        "the last twentieth",
        "a long run",
        "a rate that the optimizer does not use",
        "weights that are copied back",
        "single precision",
        "most updates lost",
        "lost at the end of a schedule",
        "master weights",
    ],
)
def test_what_looks_like_it_and_is_not(job):
    """Healthy twins give nothing."""
    assert "ineffective_update" not in kinds(analyze(job))


def test_a_gradient_that_has_vanished_is_not_judged():
    """A run that has converged to the last bit has no gradient to speak of."""

    def converged(step, rank, record):
        record = still(FROM)(step, rank, record)
        return replace(record, reduced_gradient_square=1e-9 if step >= FROM else 2.0)

    assert kinds(analyze(Job(steps=260, sample_fault=converged))) == set()


def test_a_restart_keeps_what_was_declared():
    """The optimizer's name and the declared length do not come again with every step."""
    check = IneffectiveUpdate(optimizer="AdamW", total_steps=10)
    assert (check.optimizer, check.total_steps) == ("AdamW", 10)
