"""The rank that holds the others up: named from waits, never the victims; and noise that must not be called."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.checks.straggler import Straggler
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import StepObservation
from support.simulation import Job, analyze, kinds, one

FROM = 107


def slower(rank, seconds, phase="forward", since=FROM, until=10**9):
    """One rank takes longer in a phase."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until)
        getattr(columns, f"{phase}_seconds")[rows, rank] += seconds

    return fault


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_a_slow_rank_is_named_with_its_onset(ranks, seed):
    """15 % of the step on one rank: named, nobody else is, and it begins within twenty steps of the truth."""
    job = Job(ranks=ranks, steps=300, seed=seed, faults=(slower(1, 0.03),), sample_period=0, batch_steps=20)
    analysis = analyze(job)
    finding = one(analysis, "straggler")
    assert finding.ranks == (1,)
    assert abs(finding.since_step - FROM) <= 20
    assert finding.detected_step <= FROM + 100
    assert finding.evidence["slowdown_seconds"] == pytest.approx(0.03, rel=0.35)
    assert finding.evidence["phase"] == "compute"
    assert kinds(analysis) == {"straggler"}


def test_a_slow_rank_among_a_thousand_is_named_within_a_hundred_steps():
    """15 % on one of 1,024 ranks."""
    job = Job(ranks=1024, steps=220, faults=(slower(700, 0.03),), sample_period=0, batch_steps=20)
    finding = one(analyze(job), "straggler")
    assert finding.ranks == (700,)
    assert finding.detected_step <= FROM + 100
    assert abs(finding.since_step - FROM) <= 20


@pytest.mark.parametrize(
    ("phase", "named"), [("input", "input"), ("backward", "compute"), ("forward", "compute")]
)
def test_the_phase_that_takes_longer_is_named(phase, named):
    """Slow data and slow computation are told apart."""
    finding = one(analyze(Job(steps=300, faults=(slower(2, 0.05, phase),), sample_period=0)), "straggler")
    assert finding.ranks == (2,)
    assert finding.evidence["phase"] == named
    assert named in finding.reason


def test_two_slow_ranks_are_both_named():
    """Two of eight, of which one is worse."""
    faults = (slower(1, 0.06), slower(5, 0.04))
    finding = one(analyze(Job(ranks=8, steps=300, faults=faults, sample_period=0)), "straggler")
    assert finding.ranks == (1, 5)
    assert finding.reason.startswith("Rank 1 holds")


def test_it_resolves_when_the_rank_is_as_fast_as_the_others():
    """Three quiet windows resolve it."""
    job = Job(steps=500, faults=(slower(1, 0.05, until=300),), sample_period=0)
    finding = one(analyze(job), "straggler")
    assert finding.status == "resolved"
    assert 340 <= finding.resolved_step <= 380
    assert finding.evidence["slowdown_share"] == pytest.approx(0.2, abs=0.06)


def test_without_waits_own_times_are_compared():
    """Where waiting cannot be measured, as on accelerators, the rank whose own work takes longer is named."""

    def unmeasured(columns):
        columns.sync_seconds[:] = np.nan

    job = Job(steps=300, faults=(slower(1, 0.06), unmeasured), sample_period=0)
    finding = one(analyze(job), "straggler")
    assert finding.ranks == (1,)
    assert finding.evidence["measured_by"] == "own time"


def test_slow_data_is_found_in_a_sharded_job():
    """Where waits are spread over the step, only the time between steps is a rank's own."""

    def spread(columns):
        columns.sync_seconds[:] = np.nan

    job = Job(
        steps=300, parallelism=Parallelism.SHARDED, faults=(slower(1, 0.06, "input"), spread), sample_period=0
    )
    finding = one(analyze(job), "straggler")
    assert finding.ranks == (1,)
    assert finding.evidence["phase"] == "input"


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 32])
@pytest.mark.parametrize("jitter", [0.05, 0.2, 0.5])
def test_noise_is_no_straggler(ranks, jitter):
    """Lognormal noise of 5 to 50 % of each phase, 1,200 steps: nobody is named."""
    job = Job(
        ranks=ranks,
        steps=2000,
        seed=ranks,
        jitter=jitter,
        step_seconds=0.05,
        sample_period=0,
        batch_steps=100,
    )
    assert "straggler" not in kinds(analyze(job))


def test_a_million_rank_steps_of_noise_name_nobody():
    """1,024 ranks with 5 % jitter and lasting differences of 1.5 % between ranks, a million rank-steps."""
    check = Straggler()
    rng = np.random.default_rng(5)
    ranks = tuple(range(1024))
    lasting = rng.normal(1.0, 0.015, 1024)
    nothing = np.zeros(1024, np.int64)
    for step in range(980):
        own = 0.2 * lasting * rng.lognormal(0, 0.05, 1024)
        own[rng.random(1024) < 0.001] *= 3.0
        sync = own.max() - own + 0.02
        verdict = check.update(
            StepObservation(
                step, 0, 1024, ranks, own, own, nothing, (), own + sync, own * 0.1, own * 0.4, own * 0.5, sync,
                own * 0.01, nothing, nothing, nothing, sync_expected=True, parallelism=Parallelism.DATA_PARALLEL,
            )
        )  # fmt: skip
        assert verdict is None, verdict


def test_a_spell_of_a_few_seconds_is_no_straggler():
    """Another process on the machine holds one rank back for four seconds: a scheduler's doing, not a straggler."""
    fault = slower(0, 0.01, since=200, until=600)
    job = Job(ranks=2, steps=1200, step_seconds=0.01, faults=(fault,), sample_period=0, batch_steps=50)
    assert "straggler" not in kinds(analyze(job))


def test_it_is_found_under_heavy_noise_when_many_windows_agree():
    """An excess that no single window shows, for each step varies by more, shows in many together."""
    fault = slower(1, 0.02, since=300)
    job = Job(steps=1500, jitter=0.6, step_seconds=0.1, faults=(fault,), sample_period=0, batch_steps=50)
    assert one(analyze(job), "straggler").ranks == (1,)


def test_all_ranks_slow_is_nobody_s_fault():
    """Steps that get slower everywhere name nobody."""

    def everywhere(columns):
        columns.input_seconds[columns.step >= FROM] += 0.1

    assert kinds(analyze(Job(steps=300, faults=(everywhere,), sample_period=0))) == set()


def test_ranks_that_take_turns_are_not_named():
    """A slowest rank that changes from step to step is uneven data, not a straggler."""

    def turns(columns):
        for row, step in enumerate(columns.step):
            columns.forward_seconds[row, step % columns.forward_seconds.shape[1]] += 0.1

    assert kinds(analyze(Job(steps=400, faults=(turns,), sample_period=0))) == set()
