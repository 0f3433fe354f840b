"""The rank that holds the others up: named from waits, never the victims; and noise that must not be called."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.analysis import AnalysisConfig
from stallwatch.detector.checks.straggler import Straggler
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import StepObservation
from support.simulation import Job, analyze, kinds, one, watched

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


@pytest.mark.slow
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

    assert kinds(analyze(Job(steps=300, faults=(everywhere,), sample_period=0))) == {"input_bound"}


def test_ranks_that_take_turns_are_not_named():
    """A slowest rank that changes from step to step is uneven data, not a straggler."""

    def turns(columns):
        for row, step in enumerate(columns.step):
            columns.forward_seconds[row, step % columns.forward_seconds.shape[1]] += 0.1

    assert kinds(analyze(Job(steps=400, faults=(turns,), sample_period=0))) == set()


def quick(seconds, until=10**9, steps=2000):
    """Steps of 20 ms, of which one rank takes longer from step 400 on."""
    fault = slower(1, seconds, since=400, until=until)
    return Job(
        ranks=4, steps=steps, step_seconds=0.02, jitter=0.15, faults=(fault,), sample_period=0, batch_steps=50
    )


def test_a_slow_rank_that_does_not_wait_for_a_cpu_is_named_as_soon_as_a_heartbeat_says_so():
    """30 % slower at 20 ms a step: windows show it after a second, the next heartbeat or two that it is the rank's own."""
    finding = one(watched(quick(0.006), lambda seconds, rank: 0.1 * seconds), "straggler")
    assert finding.ranks == (1,)
    assert abs(finding.since_step - 400) <= 20
    assert finding.detected_step <= 400 + 2 * 2.0 / 0.02
    assert finding.evidence["cpu_wait_share"] == pytest.approx(0.0, abs=0.01)


def test_without_a_word_about_cpus_it_takes_ten_seconds():
    """Where the kernel does not tell, an excess has to last longer than a scheduler's usually do."""
    finding = one(watched(quick(0.006), lambda *_: 0.0, telling=False), "straggler")
    assert finding.detected_step >= 400 + 9.0 / 0.026


@pytest.mark.parametrize("lasting", [3.0, 8.0, 20.0])
def test_a_rank_that_waits_for_a_cpu_for_seconds_is_no_straggler(lasting):
    """Another process takes a rank's CPU for up to 20 s, and the kernel says so."""
    until = 400 + int(lasting / 0.028)
    share = 0.008 / 0.028

    def waited(seconds, rank):
        held = min(max(seconds - 400 * 0.02, 0.0), lasting)
        return 0.05 * seconds + (share * held if rank == 1 else 0.0)

    assert "straggler" not in kinds(watched(quick(0.008, until=until), waited))


def test_a_rank_that_waits_for_a_cpu_all_the_time_is_one():
    """A process that does not go away: named after half a minute, with what it is."""

    def waited(seconds, rank):
        return 0.05 * seconds + (0.28 * max(seconds - 8.0, 0.0) if rank == 1 else 0.0)

    finding = one(watched(quick(0.008, steps=2400), waited), "straggler")
    assert finding.ranks == (1,)
    assert "waits for a CPU" in finding.reason
    assert "takes the CPU" in finding.advice[0]


def test_spells_that_come_again_are_not_believed():
    """Nothing is known of CPUs; spells of six seconds come and go, and the next one has to outlast them twice over."""

    def spells(columns):
        rows = (columns.step >= 400) & ((columns.step // 300) % 2 == 1)
        columns.forward_seconds[rows, 1] += 0.008

    job = Job(ranks=2, steps=4000, step_seconds=0.02, faults=(spells,), sample_period=0, batch_steps=50)
    assert "straggler" not in kinds(analyze(job))


def test_half_a_node_is_named_as_the_node():
    """All eight ranks of one node of two take 30 % longer: the finding names the node, and that steps depend on all of them."""

    def node(columns):
        columns.forward_seconds[columns.step >= FROM, 8:] += 0.06

    finding = one(analyze(Job(ranks=16, steps=300, faults=(node,), sample_period=0)), "straggler")
    assert finding.ranks == tuple(range(8, 16))
    assert finding.reason.startswith("Node node1 holds the others up")
    assert finding.evidence["node"] == "node1"
    assert finding.evidence["saved_seconds"] == pytest.approx(0.06, rel=0.35)
    assert abs(finding.since_step - FROM) <= 20


def test_what_steps_would_take_without_it_is_told():
    """Two ranks are slow: without the worse one alone, steps wait for the other."""
    faults = (slower(1, 0.06), slower(5, 0.04))
    finding = one(analyze(Job(ranks=8, steps=300, faults=faults, sample_period=0)), "straggler")
    assert finding.evidence["saved_seconds"] == pytest.approx(0.06, rel=0.35)
    assert finding.evidence["saved_seconds_by_rank"][0] == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_a_rank_30_percent_slower_is_named_within_80_steps(seed):
    """Real jobs' noise: each phase varies by 15 % from step to step, and steps take 0.1 s."""
    job = Job(steps=300, seed=seed, step_seconds=0.1, jitter=0.15, faults=(slower(2, 0.03),), sample_period=0)
    finding = one(watched(job, lambda seconds, rank: 0.02 * seconds), "straggler")
    assert finding.ranks == (2,)
    assert finding.detected_step <= FROM + 80


NO_REPLICAS = AnalysisConfig(disabled=("missing_gradient_sync",))
"""That check takes all ranks for replicas of one another, and explains stragglers: stages are none."""


def staged(data_parallel, stages, own, steps=320, seed=0):
    """A pipeline-parallel job as its ranks would tell: stages have gradients of their own, and ranks wait within them.

    `own(rng, stage)` gives the compute of the ranks of one stage, shape (steps, data_parallel), in shares of the usual.
    """
    rng = np.random.default_rng(seed)
    ranks = data_parallel * stages
    times = np.stack([0.1 * own(rng, stage) for stage in range(stages)], axis=2).reshape(steps, ranks)

    def replace(columns):
        columns.forward_seconds[:] = times * rng.lognormal(0, 0.02, times.shape)
        for stage in range(stages):
            columns.gradient_fingerprint[:, stage::stages] += stage
            members = columns.forward_seconds[:, stage::stages]
            # `play` adds a wait for the slowest of all; here only those of the same stage are waited for.
            columns.sync_seconds[:, stage::stages] += members.max(axis=1, keepdims=True) - members
        before = columns.input_seconds + columns.forward_seconds + columns.backward_seconds
        columns.sync_seconds -= before.max(axis=1, keepdims=True) - before

    return Job(
        ranks=ranks, steps=steps, seed=seed, step_seconds=0.2, jitter=0.01, faults=(replace,), sample_period=0
    )


def test_the_one_slow_worker_of_a_pipeline_is_accused():
    """One worker of 4 x 4 takes 2.35 times as long as its peers (trace AR of StragglerAnalysis): it is named, nobody else."""

    def own(rng, stage):
        share = np.ones((320, 4))
        if stage == 0:
            share[:, 0] = 2.35
        return share * rng.normal(1.0, 0.01, 4)

    finding = one(analyze(staged(4, 4, own), NO_REPLICAS), "straggler")
    assert finding.ranks == (0,)
    assert finding.evidence["slowdown_seconds"] == pytest.approx(0.135, rel=0.2)


def test_random_imbalance_of_sequence_lengths_accuses_nobody():
    """32 x 2 workers whose compute varies by half from step to step, and by 3 % at most on median (trace SE)."""

    def own(rng, _stage):
        return rng.lognormal(0.0, 0.4, (320, 32)) * rng.uniform(0.99, 1.03, 32)

    assert "straggler" not in kinds(analyze(staged(32, 2, own), NO_REPLICAS))


def test_a_long_last_stage_accuses_nobody():
    """2 x 4 workers whose last stage takes 1.38 and the others 0.85 (trace ST): the model's structure, not a rank's fault."""

    def own(_rng, stage):
        return np.full((320, 2), 1.38 if stage == 3 else 0.85)

    assert "straggler" not in kinds(analyze(staged(2, 4, own), NO_REPLICAS))


@pytest.mark.parametrize("until", [320, 10**9], ids=["over", "lasting"])
def test_what_is_seen_while_gradients_are_not_averaged_does_not_count(until):
    """Rank 2 steps on its own from 300 to 379, and is slow meanwhile: told only if it still is when that explains it no more."""

    def alone(columns):
        rows = (columns.step >= 300) & (columns.step < 380)
        columns.gradient_fingerprint[rows, 2] += 1

    faults = (alone, slower(2, 0.03, since=300, until=until))
    analysis = analyze(Job(steps=800, faults=faults, sample_period=0, batch_steps=20))
    assert one(analysis, "missing_gradient_sync").ranks == (2,)
    if until > 800:
        assert one(analysis, "straggler").ranks == (2,)
    else:
        assert "straggler" not in kinds(analysis)
