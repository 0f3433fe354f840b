"""More ranks that do not help: whole simulated jobs, their healthy look-alikes, and who is not called instead."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from stallwatch.detector.analysis import RunAnalysis
from support.simulation import START, Job, analyze, kinds, one, play, restarted, watched

SCALING = {"batch_beyond_critical", "lr_scaling_mismatch", "scaling_efficiency_loss", "communication_bound"}


@dataclass
class DeclaredJob(Job):
    """A job whose script says what its learning rate was tuned for, and on what it runs."""

    base_rate: float = 0.0
    base_batch: float = 0.0
    device: str = "cpu"

    def hello(self, rank):
        """Who speaks."""
        return replace(
            super().hello(rank),
            base_learning_rate=self.base_rate,
            base_batch_size=self.base_batch,
            device=self.device,
        )


def rate(value):
    """A fault: another learning rate."""

    def change(columns):
        columns.learning_rate = value

    return change


def slower(factor, phase="backward_seconds"):
    """A fault: a phase takes so many times as long on all ranks."""

    def change(columns):
        getattr(columns, phase)[:] *= factor

    return change


def exchange(seconds, since=0):
    """A fault: every exchange takes so much longer."""

    def change(columns):
        rows = columns.step >= since
        lasting = seconds * np.random.default_rng(5).lognormal(0, 0.1, (rows.sum(), 1))
        columns.sync_seconds[rows] += lasting
        columns.step_seconds[rows] += lasting

    return change


def noise_free(step, rank, record):
    """A sampled record of gradients that hardly differ between ranks."""
    return replace(record, reduced_gradient_square=3.9)


def two_attempts(first, **changes):
    """A job, and its restart with other numbers, in one analysis."""
    analysis = RunAnalysis(first.run)
    now = play(analysis, first)
    second = restarted(first, first_step=first.steps, **changes)
    play(analysis, second, now + 5)
    return analysis


def scaling(analysis):
    """The kinds of this section that were found."""
    return kinds(analysis) & SCALING


# batch_beyond_critical


def test_a_batch_beyond_the_critical_one_is_called_with_what_the_ranks_are_worth():
    """Gradients without noise: a batch of 32 is many times what is needed, and one rank would do."""
    analysis = analyze(Job(steps=600, sample_period=10, sample_fault=noise_free, jitter=0.02))
    found = one(analysis, "batch_beyond_critical")
    assert scaling(analysis) == {"batch_beyond_critical"}
    assert found.severity == "warning"
    assert found.since_step <= 80
    assert found.detected_step <= 250
    assert found.evidence["batch_over_critical"] > 30
    assert found.evidence["data_parallel_efficiency"] < 0.05
    assert found.evidence["useful_ranks"] == 1
    assert "32 samples" in found.reason


def test_a_batch_at_the_noise_scale_is_none():
    """Twice the noise scale, not surely more: nothing."""

    def at_half(step, rank, record):
        return replace(record, reduced_gradient_square=record.reduced_gradient_square * 2.0 / (12 / 9))

    assert not scaling(analyze(Job(steps=1500, sample_period=10, sample_fault=at_half)))


def test_a_noise_scale_that_grows_is_none_and_resolves_one():
    """In the beginning gradients agree, and a finding that came of it goes when they no longer do."""

    def until(last):
        return lambda step, rank, record: (
            noise_free(step, rank, record)
            if step < last
            else replace(record, reduced_gradient_square=1.05 + 0.01 * (step % 7))
        )

    early = analyze(Job(steps=800, sample_period=10, sample_fault=until(100)))
    assert not scaling(early)
    late = analyze(Job(steps=1600, sample_period=10, sample_fault=until(400)))
    found = one(late, "batch_beyond_critical")
    assert found.status == "resolved"
    assert 400 < found.resolved_step < 1200


def test_ranks_on_the_same_samples_are_not_a_batch_beyond_the_critical_one():
    """Bit-identical gradients on two ranks: that their average is no smaller says nothing about noise."""

    def duplicated(step, rank, record):
        return replace(record, local_gradient_square=4.0 + 0.01 * (step % 9), reduced_gradient_square=4.0)

    analysis = analyze(Job(steps=600, sample_period=10, sample_fault=duplicated))
    assert "batch_beyond_critical" not in kinds(analysis)


# lr_scaling_mismatch


@pytest.mark.parametrize("new", [0.1, 0.4], ids=["unchanged", "twice"])
def test_a_rate_that_did_not_follow_a_restart_with_more_ranks(new):
    """Twice the ranks, and the rate as it was, or four times: called from the restart on, with both rules."""
    analysis = two_attempts(Job(steps=200), ranks=8, faults=(rate(new),))
    found = one(analysis, "lr_scaling_mismatch")
    assert scaling(analysis) == {"lr_scaling_mismatch"}
    assert found.since_step == 200
    assert found.detected_step <= 245
    assert found.evidence["linear_rule"] == pytest.approx(0.2)
    assert found.evidence["square_root_rule"] == pytest.approx(0.1414, rel=1e-3)
    assert ("followed twice" if new == 0.4 else "is the same") in found.reason


@pytest.mark.parametrize("new", [0.2, 0.1414, 0.17])
def test_a_rate_that_followed_by_either_rule_is_none(new):
    """Linear, square root, or between."""
    assert not scaling(two_attempts(Job(steps=200), ranks=8, faults=(rate(new),)))


def test_the_same_batch_with_other_ranks_needs_no_other_rate():
    """The samples of a step stay, as launchers that divide a global batch do; so does a world that lost one node of four."""

    def halved(columns):
        columns.samples /= 2
        columns.loss_sum /= 2

    assert "lr_scaling_mismatch" not in kinds(two_attempts(Job(steps=200), ranks=8, faults=(halved,)))
    assert not scaling(two_attempts(Job(steps=200, ranks=8), ranks=6))


def test_fewer_ranks_with_the_same_rate():
    """Half the ranks: the rate is too high now, and that resolves when the next attempt has the ranks back."""
    job = Job(steps=200, ranks=8)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    second = restarted(job, first_step=200, ranks=4)
    now = play(analysis, second, now + 5)
    assert one(analysis, "lr_scaling_mismatch").status == "firing"
    play(analysis, restarted(second, first_step=400, ranks=8), now + 5)
    assert one(analysis, "lr_scaling_mismatch").status == "resolved"


def test_a_warm_up_after_the_restart_is_waited_for():
    """The rate rises to what it should be over 100 steps: nothing is said meanwhile, nor afterwards."""
    job = Job(steps=200)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    step, sequence = 200, {}
    for part in range(30):
        later = restarted(job, first_step=step, ranks=8, faults=(rate(min(0.02 * (part + 1), 0.2)),))
        later.steps, later.sequence = 10, sequence
        now = play(analysis, later, now + 5, hello=part == 0)
        step += 10
    assert not scaling(analysis)


def test_a_rate_that_was_tuned_for_another_batch():
    """Declared for 8 samples, used with 32: called after the steps in which a warm-up would have begun."""
    job = DeclaredJob(steps=200, base_rate=0.1, base_batch=8)
    found = one(analyze(job), "lr_scaling_mismatch")
    assert 95 <= found.detected_step <= 105
    assert "declared for 0.1 (8)" in found.reason
    assert not scaling(analyze(replace(job, faults=(rate(0.4),))))
    assert not scaling(analyze(replace(job, faults=(rate(0.2),))))
    assert one(analyze(replace(job, faults=(rate(1.6),))), "lr_scaling_mismatch")


def test_a_low_constant_rate_may_be_a_warm_up_by_epochs():
    """A tenth of the declared rate for some hundred steps: nobody knows; for a quarter of the declared run: it is the rate."""
    job = DeclaredJob(steps=500, base_rate=0.1, base_batch=8, faults=(rate(0.01),))
    assert not scaling(analyze(job))
    assert one(analyze(replace(job, total_steps=1000)), "lr_scaling_mismatch").detected_step in range(
        250, 256
    )


def test_a_batch_in_other_units_is_not_compared():
    """Declared in sequences, logged in tokens."""
    job = DeclaredJob(steps=300, base_rate=0.1, base_batch=0.05)
    assert not scaling(analyze(job))


def test_what_the_loss_did_is_said():
    """The loss falls a quarter as fast a sample after the restart, and the finding says so once that is known."""

    def falling(first, per_step):
        def change(columns):
            levels = first - per_step * (columns.step - columns.step[0])
            noise = np.random.default_rng(3).normal(0, 0.01, columns.loss_sum.shape)
            columns.loss_sum[:] = (levels[:, None] + noise) * 8

        return change

    first = Job(steps=200, faults=(falling(5.0, 0.005),))
    analysis = two_attempts(first, ranks=8, faults=(falling(4.0, 0.0025),))
    found = one(analysis, "lr_scaling_mismatch")
    assert found.evidence["progress_per_sample_ratio"] == pytest.approx(0.25, rel=0.2)
    assert "a sample brings 0.25 times" in found.reason
    harmless = two_attempts(first, ranks=8, faults=(falling(4.0, 0.01),))
    assert one(harmless, "lr_scaling_mismatch").severity == "info"


# scaling_efficiency_loss


def test_workers_that_do_less_since_there_are_more_of_them():
    """Twice the ranks, each at less than half the speed: both throughputs are named."""
    analysis = two_attempts(Job(steps=200), ranks=8, faults=(rate(0.2), slower(4.0)))
    found = one(analysis, "scaling_efficiency_loss")
    assert scaling(analysis) == {"scaling_efficiency_loss"}
    assert found.since_step <= 230
    assert found.evidence["world_size_before"] == 4
    assert found.evidence["efficiency"] == pytest.approx(0.4, abs=0.06)
    assert found.evidence["phase"] == "compute"
    assert found.evidence["samples_per_second"] < found.evidence["samples_per_second_before"]
    assert "8 workers instead of 4" in found.reason


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_ordinary_losses_are_none(factor):
    """Steps that take a tenth longer with twice the ranks are what scaling costs."""
    assert not scaling(two_attempts(Job(steps=200), ranks=8, faults=(rate(0.2), slower(factor))))


def test_milliseconds_are_none():
    """A step of 2 ms that takes 5 ms among more ranks is the scheduler of the machine."""
    job = Job(steps=600, step_seconds=0.002)
    analysis = two_attempts(job, ranks=8, faults=(rate(0.2), slower(4.0)))
    assert not scaling(analysis)


def test_a_slow_newcomer_is_a_straggler_and_no_loss_by_scaling():
    """One of the ranks that were added holds up the others: that is the finding."""

    def slow(columns):
        columns.forward_seconds[:, 6] += 0.3

    analysis = two_attempts(Job(steps=200), ranks=8, faults=(rate(0.2), slow))
    assert one(analysis, "straggler").ranks == (6,)
    assert not [each for each in analysis.findings("firing") if each.kind == "scaling_efficiency_loss"]


def test_it_resolves_with_the_workers_that_were_added():
    """Back to as many as before: nothing is left to say."""
    job = Job(steps=200)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    second = restarted(job, first_step=200, ranks=8, faults=(rate(0.2), slower(4.0)))
    now = play(analysis, second, now + 5)
    assert one(analysis, "scaling_efficiency_loss").status == "firing"
    play(analysis, restarted(second, first_step=400, ranks=4, faults=()), now + 5)
    assert one(analysis, "scaling_efficiency_loss").status == "resolved"


# communication_bound


def test_an_exchange_that_takes_half_the_step():
    """Every rank waits 0.2 s of 0.4 s, from step 150 on: called with its share and that it has grown."""
    analysis = analyze(Job(steps=400, faults=(exchange(0.2, since=150),)))
    found = one(analysis, "communication_bound")
    assert scaling(analysis) == {"communication_bound"}
    assert "straggler" not in kinds(analysis)
    assert 140 <= found.since_step <= 160
    assert found.detected_step <= 260
    assert found.evidence["exposed_share"] == pytest.approx(0.55, abs=0.06)
    assert found.evidence["exposed_share_at_start"] < 0.2
    assert "up from" in found.reason


@pytest.mark.parametrize(("share", "severity"), [(0.02, "warning"), (0.2, "info")])
def test_ranks_without_a_core_of_their_own_are_told_so(share, severity):
    """Training threads that wait for a CPU in a third of the time that is theirs: so do those that exchange gradients."""
    job = Job(steps=400, faults=(exchange(0.3),), sample_period=0)
    finding = one(watched(job, lambda seconds, _rank: share * seconds), "communication_bound")
    assert finding.severity == severity


def test_it_resolves():
    """The network is well again."""

    def gone(columns):
        rows = columns.step >= 250
        columns.step_seconds[rows] -= columns.sync_seconds[rows]
        columns.sync_seconds[rows] = 0

    analysis = analyze(Job(steps=500, faults=(exchange(0.2), gone)))
    assert one(analysis, "communication_bound").status == "resolved"


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_straggler_is_not_called_communication(ranks):
    """The others wait long; the rank that waits least does not."""

    def slow(columns):
        columns.forward_seconds[:, 1] += 0.2

    analysis = analyze(Job(steps=400, ranks=ranks, faults=(slow,)))
    assert "communication_bound" not in kinds(analysis)
    assert one(analysis, "straggler").ranks == (1,)


@pytest.mark.slow
def test_a_tiny_job_that_waits_for_the_scheduler_is_healthy():
    """Steps of 6 ms of which 4 ms are waits, as on a machine with fewer cores than ranks; on an accelerator that is a finding."""
    job = DeclaredJob(steps=3000, step_seconds=0.002, faults=(exchange(0.004),))
    assert not scaling(analyze(job))
    assert one(analyze(replace(job, device="cuda")), "communication_bound").severity == "warning"


@pytest.mark.slow
def test_a_large_job_without_faults_is_healthy():
    """1,500 steps of 64 ranks, restarted once: nothing of this section."""
    assert not scaling(two_attempts(Job(steps=750, ranks=64)))


@pytest.mark.parametrize("seed", range(5))
def test_jobs_that_double_in_good_order_are_healthy(seed):
    """Twice the ranks, the rate with them, steps a little longer and noisier."""
    job = Job(steps=200, seed=seed, jitter=0.2)
    assert not scaling(two_attempts(job, ranks=8, faults=(rate(0.2), slower(1.15)), seed=seed + 50))


def test_findings_start_from_the_beginning_of_time():
    """Times of the simulation are those of the analysis: what is charged for waiting is finite."""
    analysis = analyze(Job(steps=400, faults=(exchange(0.2),)))
    assert 0 < analysis.view().stalled_gpu_seconds["communication_bound"] < 1e4
    assert one(analysis, "communication_bound").opened_at > START
