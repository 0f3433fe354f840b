"""Steps that got slower on all ranks and stay so; not those of a machine whose speed wanders."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.core.inputs import Event, RankBatch
from support.simulation import START, Job, analyze, attach, kinds, one, play, restarted, watched

FROM = 307


def grows(share, phase="forward", since=FROM, until=10**9, ranks=slice(None)):
    """A phase takes longer by a share of the usual step."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until)
        getattr(columns, f"{phase}_seconds")[rows, ranks] += share * 0.2
        if phase == "sync":
            columns.step_seconds[rows, ranks] += share * 0.2

    return fault


def run(*faults, **job):
    """The analysis of a job."""
    return analyze(Job(**{"steps": 1000, "sample_period": 0, "batch_steps": 20, **job}, faults=faults))


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_slower_steps_are_found_with_their_onset(ranks, share):
    """By how much, since when, and what grew."""
    analysis = run(grows(share), ranks=ranks)
    finding = one(analysis, "throughput_regression")
    assert finding.severity == "warning"
    assert abs(finding.since_step - FROM) <= 20
    assert finding.evidence["slowdown_share"] == pytest.approx(share, rel=0.25)
    assert finding.evidence["phase"] == "compute"
    assert finding.ranks == ()
    assert kinds(analysis) == {"throughput_regression"}


@pytest.mark.parametrize(
    ("phase", "named"), [("backward", "compute"), ("optimizer", "optimizer"), ("sync", "communication")]
)
def test_what_grew_is_named(phase, named):
    """Compute, optimizer and network are told apart."""
    finding = one(run(grows(0.4, phase)), "throughput_regression")
    assert finding.evidence["phase"] == named
    assert named in finding.reason


def test_data_that_comes_late_is_input_bound():
    """It says more than that steps are slower."""
    assert kinds(run(grows(0.6, "input"))) == {"input_bound"}


def test_a_slow_rank_is_a_straggler():
    """Everybody's steps are longer, and all but one wait."""
    assert kinds(run(grows(0.5, ranks=1), ranks=4)) == {"straggler"}


@pytest.mark.parametrize("seed", range(4))
def test_a_machine_whose_speed_wanders_is_let_be(seed):
    """All phases take up to 30 % longer together for spells of 5 to 25 s."""

    def wandering(columns):
        rng = np.random.default_rng(seed)
        step, slow = 0, False
        while step < len(columns.step):
            length = int(rng.uniform(5, 25) / 0.2)
            factor = 1.0 + 0.3 * rng.random() * slow
            slow = not slow
            for phase in ("input", "forward", "backward", "optimizer"):
                getattr(columns, f"{phase}_seconds")[step : step + length] *= factor
            step += length

    assert kinds(run(wandering, steps=3000)) == set()


def test_evaluation_and_checkpoint_pauses_are_nothing():
    """One step in ten takes seconds longer from a step on."""

    def pauses(columns):
        columns.input_seconds[(columns.step >= FROM) & (columns.step % 10 == 0)] += 4.0

    assert kinds(run(pauses)) == set()


def test_more_samples_a_step_take_longer():
    """Twice the batch takes twice the time, and is no regression."""

    def batch(columns):
        rows = columns.step >= FROM
        columns.samples[rows] *= 2
        columns.loss_sum[rows] *= 2
        columns.forward_seconds[rows] *= 2
        columns.backward_seconds[rows] *= 2

    assert "throughput_regression" not in kinds(run(batch))


def test_a_restart_begins_anew():
    """After a restart on slower machines there is nothing to compare with."""
    job = Job(steps=400, sample_period=0, batch_steps=20)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    play(analysis, restarted(job, first_step=400, step_seconds=0.4), now + 30)
    assert "throughput_regression" not in kinds(analysis)


def test_a_change_that_was_logged_is_information():
    """The user said what was changed: longer sequences take longer."""
    job = Job(steps=1000, sample_period=0, batch_steps=20, faults=(grows(0.5),))
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    event = RankBatch(sequence=1, events=(Event(FROM, "sequence_length", "sequences of 2048"),))
    analysis.batch(START, 0, job.incarnation, event)
    job.sequence[0] = 1
    play(analysis, job, hello=False)
    finding = one(analysis, "throughput_regression")
    assert finding.severity == "info"
    assert "sequences of 2048" in finding.reason


def test_it_resolves_when_steps_are_as_short_as_before():
    """The finding keeps its numbers, and ends."""
    finding = one(run(grows(0.5, until=800), steps=1200), "throughput_regression")
    assert finding.status == "resolved"
    assert 800 <= finding.resolved_step <= 920


@pytest.mark.parametrize("jitter", [0.05, 0.2, 0.4])
def test_noise_is_no_regression(jitter):
    """Whatever the noise of single steps."""
    assert "throughput_regression" not in kinds(run(jitter=jitter, steps=3000, step_seconds=0.1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("explained", "earliest"), [(0.0, 10.0), (0.3, 60.0), (1.0, 120.0)], ids=["none", "a part", "all"]
)
def test_a_full_machine_has_to_last(explained, earliest):
    """Steps of 20 ms grow by a quarter, and training threads wait for a CPU for none, a part or all of that."""
    begins, growth = 400 * 0.02, 0.25

    def waited(seconds, _rank):
        return 0.05 * seconds + max(seconds - begins, 0.0) * explained * growth / (1 + growth)

    def fault(columns):
        rows = columns.step >= 400
        columns.forward_seconds[rows] += growth * 0.02

    job = Job(
        ranks=4, steps=7000, step_seconds=0.02, jitter=0.05, faults=(fault,), sample_period=0, batch_steps=50
    )
    finding = one(watched(job, waited), "throughput_regression")
    lasted = (finding.detected_step - 400) * 0.02 * (1 + growth)
    assert earliest - 1.0 <= lasted <= earliest + 15.0
