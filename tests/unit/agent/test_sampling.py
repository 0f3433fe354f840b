"""The period of sampled steps."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stallwatch.agent._probe.sampling import LONGEST_PERIOD, SHORT_STEP_SECONDS, SamplePeriod

BUDGET = 0.01


def settled(
    period: SamplePeriod, cost: float, step: float, *, hooks: float = 0.0, times: int = 12
) -> SamplePeriod:
    """After some samples of one cost."""
    for _ in range(times):
        for _ in range(10):
            period.observe_step(step)
        period.observe_cost(cost, hooks)
    return period


def automatic(parameters: int = 5_000_000) -> SamplePeriod:
    """With the default budget."""
    return SamplePeriod("auto", parameters, BUDGET)


@pytest.mark.parametrize("cost", [1e-5, 1e-3, 1.5e-2, 2.8e-2])
@pytest.mark.parametrize("hooks", [0.0, 1e-4])
def test_hooks_and_samples_stay_within_the_budget(cost, hooks):
    """Together they take at most one percent of a step, and the period is a power of two times the base."""
    period = settled(automatic(), cost, step=0.1, hooks=hooks)
    if period.over_budget() is None:
        assert cost / period.steps + hooks <= BUDGET * 0.1
    assert period.steps in {16, 32}


@pytest.mark.parametrize("step", [0.005, 0.036, 0.054, 0.144, 0.4])
@pytest.mark.parametrize("cost", [0.001, 0.01, 1.0, 100.0])
def test_steps_of_5_ms_and_more_are_sampled_every_32_steps_at_least(step, cost):
    """Whatever a sample costs: what only samples show must be seen."""
    assert settled(automatic(), cost, step).steps <= LONGEST_PERIOD


def test_shorter_steps_are_sampled_as_often_in_time():
    """A job of 0.5 ms a step is read at least as often as one of 5 ms, in seconds."""
    period = settled(automatic(), 1.0, step=0.0005)
    assert LONGEST_PERIOD < period.steps <= 2 * LONGEST_PERIOD * SHORT_STEP_SECONDS / 0.0005


@pytest.mark.parametrize("step", [0.0001, 0.001, 0.1])
def test_the_period_changes_by_a_factor_of_two_at_most(step):
    """One dear sample, the first perhaps, or a slow while of the machine, does not blind the agent; it comes back as fast."""
    period = automatic()
    seen = [period.steps]
    for cost in [5.0] * 12 + [1e-6] * 24:
        settled(period, cost, step, times=1)
        seen.append(period.steps)
    assert all(max(now, then) <= 2 * min(now, then) for then, now in pairwise(seen))
    assert seen[-1] == 16 < max(seen)


def test_a_single_dear_sample_changes_nothing():
    """The least of the latest three counts."""
    period = settled(automatic(), 1e-4, step=0.1)
    settled(period, 5.0, step=0.1, times=2)
    assert period.steps == 16


def test_a_process_that_waits_is_sampled_like_one_that_computes():
    """The budget is a share of time; how much of it the process computes is not asked."""
    assert settled(automatic(), 0.004, step=0.1).steps == 16


def test_over_budget_is_known_when_the_period_can_grow_no_more():
    """The share is told with what it is made of; who keeps the budget has nothing to tell."""
    assert settled(automatic(), 1e-3, step=0.1).over_budget() is None
    over = settled(automatic(), 0.01, step=0.01, hooks=2e-4).over_budget()
    assert over is not None
    share, step, hooks, cost = over
    assert share == pytest.approx((2e-4 + 0.01 / 32) / 0.01)
    assert (step, hooks, cost) == (0.01, 2e-4, 0.01)
    assert settled(SamplePeriod(4, 5_000_000, BUDGET), 1.0, step=0.01).over_budget() is None


def test_hooks_leave_a_quarter_of_the_budget_to_samples():
    """Hooks that take all of it do not end the samples."""
    assert settled(automatic(), 1e-4, step=0.01, hooks=1.0).steps == 16


@pytest.mark.parametrize("parameters", [1_000, 50_000_000, 2_000_000_000])
def test_ranks_that_settle_differently_still_meet(parameters):
    """Every step that the sparser rank samples is sampled by the denser one."""
    fast = settled(automatic(parameters), 1e-5, step=0.001)
    slow = settled(automatic(parameters), 4e-2, step=0.001)
    assert slow.steps > fast.steps
    assert all(fast.hits(step) for step in range(5000) if slow.hits(step))


def test_fixed_period_is_kept():
    """A number given by the user is not second-guessed by costs, but the detector may ask for less."""
    period = settled(SamplePeriod(10, 5_000_000, BUDGET), 1.0, step=0.1)
    assert [step for step in range(31) if period.hits(step)] == [0, 10, 20, 30]
    period.advise(2)
    assert period.steps == 20
    period.advise(1)
    assert period.steps == 10


def test_advice_has_limits():
    """No factor makes the period endless."""
    period = automatic()
    period.advise(2**31)
    assert period.steps == 16 * 1024
