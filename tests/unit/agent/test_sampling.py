"""The period of sampled steps."""

from __future__ import annotations

import pytest

from stallwatch.agent._probe.sampling import MAX_PERIOD, SamplePeriod


def settled(period: SamplePeriod, cost: float, step: float, times: int = 4) -> SamplePeriod:
    """After some samples of one cost."""
    for _ in range(times):
        for _ in range(10):
            period.observe_step(step)
        period.observe_cost(cost)
    return period


@pytest.mark.parametrize("cost", [1e-5, 1e-3, 2e-2, 0.5])
def test_sampling_stays_within_half_of_the_budget(cost):
    """Cost over period is at most half of one percent of a step, and the period a power of two times the base."""
    period = settled(SamplePeriod("auto", 5_000_000, 0.01), cost, step=0.1)
    assert cost / period.steps <= 0.005 * 0.1
    factor = period.steps // 16
    assert factor & (factor - 1) == 0


def test_cpu_share_counts_too():
    """A rank that waits most of the time has little CPU time, of which the share must be small as well."""
    period = SamplePeriod("auto", 5_000_000, 0.01)
    for _ in range(3):
        period.observe_step(1.0)
        period.observe_cost(0.03, 0.02, 0.1)
    assert 0.02 / period.steps <= 0.005 * 0.1


def test_sampling_gets_what_the_rest_leaves():
    """Hooks and threads come first: together with them, sampling stays within the budget."""
    period = SamplePeriod("auto", 5_000_000, 0.01)
    for _ in range(3):
        period.observe_step(0.1)
        period.observe_cost(0.02, 0.02, 0.1, other_cpu_seconds=0.0006)
    assert 0.02 / period.steps + 0.0006 <= 0.01 * 0.1
    assert period.steps > settled(SamplePeriod("auto", 5_000_000, 0.01), 0.02, step=0.1).steps


def test_ranks_that_settle_differently_still_meet():
    """Every step that the sparser rank samples is sampled by the denser one."""
    fast = settled(SamplePeriod("auto", 5_000_000, 0.01), 1e-3, step=0.1)
    slow = settled(SamplePeriod("auto", 5_000_000, 0.01), 4e-2, step=0.1)
    assert slow.steps > fast.steps
    assert all(fast.hits(step) for step in range(5000) if slow.hits(step))


def test_one_slow_sample_does_not_thin_out_for_ever():
    """The first sample, slow from warming up, is forgotten."""
    period = SamplePeriod("auto", 5_000_000, 0.01)
    period.observe_step(0.1)
    period.observe_cost(5.0)
    assert period.steps > 5000
    assert settled(period, 1e-3, step=0.1).steps == 16


def test_fixed_period_is_kept():
    """A number given by the user is not second-guessed by costs, but the detector may ask for less."""
    period = settled(SamplePeriod(10, 5_000_000, 0.01), 1.0, step=0.1)
    assert [step for step in range(31) if period.hits(step)] == [0, 10, 20, 30]
    period.advise(2)
    assert period.steps == 20
    period.advise(1)
    assert period.steps == 10


def test_advice_has_limits():
    """No factor makes the period endless."""
    period = SamplePeriod("auto", 5_000_000, 0.01)
    period.advise(2**31)
    assert period.steps == 16 * 1024
    settled(period, 1e6, step=1e-6)
    assert period.steps == MAX_PERIOD
