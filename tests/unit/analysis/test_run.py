"""A run's analysis as a whole: alignment, accounting, read models; attempts are in test_attempts.py."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.analysis import AnalysisConfig, RunAnalysis
from stallwatch.detector.analysis.align import AlignConfig
from stallwatch.detector.checks import CheckConfigs
from stallwatch.detector.core.inputs import Dropped, EvaluationPoint, Event, RankBatch
from stallwatch.detector.core.observations import AttemptObservation, RunDeclaration, StepObservation
from stallwatch.detector.engine.snapshot import encode
from support.simulation import START, Job, attach, finish, kinds, one, play, restarted


def told(analysis):
    """All that users see of the findings, but for the time at which they were called."""
    return [replace(each, opened_at=0.0, resolved_at=None) for each in analysis.findings()]


def faulty(**changes):
    """A job with faults of several sorts."""

    def bypass(columns):
        rows = (columns.step >= 60) & (columns.step < 90)
        columns.gradient_fingerprint[rows, 1] += 1

    def slow(columns):
        columns.input_seconds[columns.step >= 150, 2] += 0.2

    def spike(columns):
        columns.loss_sum[columns.step >= 200] *= 1.5

    return Job(steps=300, faults=(bypass, slow, spike), **changes)


def with_side_records(job):
    """Its batches, with an event and evaluations that all ranks report."""
    for since, rank, batch in job.batches():
        low, high = int(batch.steps.step[0]), int(batch.steps.step[-1])
        evaluations = tuple(
            EvaluationPoint(step, 2.0 + rank, 10.0 * (rank + 1), {"accuracy": 0.5})
            for step in range(low, high + 1)
            if step % 50 == 49
        )
        events = (Event(120, "augmentation", "mixup on"),) if low <= 120 <= high else ()
        yield since, rank, replace(batch, evaluations=evaluations, events=events)


def played(batches, job, config=None):
    """An analysis of batches that come one after another at the same time."""
    analysis = RunAnalysis(job.run, config)
    attach(analysis, job, START)
    for rank, batch in batches:
        analysis.batch(START + 1, rank, job.incarnation + rank, batch)
    finish(analysis, job, START + 2)
    return analysis


@pytest.mark.parametrize("seed", range(4))
def test_findings_do_not_depend_on_how_ranks_interleave(seed):
    """Whatever order the ranks' batches come in, each rank's own kept, the findings and series are the same."""
    job = faulty()
    queues = [[] for _ in range(job.ranks)]
    for _, rank, batch in with_side_records(job):
        queues[rank].append(batch)
    order = [rank for rank in range(job.ranks) for _ in queues[rank]]
    straight = played(
        [(rank, batch) for batches in zip(*queues, strict=True) for rank, batch in enumerate(batches)], job
    )
    random.Random(seed).shuffle(order)
    taken = [iter(queue) for queue in queues]
    shuffled = played([(rank, next(taken[rank])) for rank in order], job)
    assert told(straight) == told(shuffled)
    assert kinds(straight) >= {"missing_gradient_sync", "straggler"}
    for name in straight.series_names():
        assert straight.series(name, None, None, 64) == shuffled.series(name, None, None, 64)
    assert straight.view().loss == shuffled.view().loss


@pytest.mark.parametrize("batch_steps", [1, 3, 17, 300])
def test_findings_do_not_depend_on_the_size_of_batches(batch_steps):
    """Steps one by one or all at once."""
    reference, other = faulty(), faulty(batch_steps=batch_steps)
    one_way = played([(rank, batch) for _, rank, batch in with_side_records(reference)], reference)
    another = played([(rank, batch) for _, rank, batch in with_side_records(other)], other)
    assert told(one_way) == told(another)


def test_ids_count_up_and_stay():
    """Findings are named by run, kind and ordinal; a second one of a kind has the next."""

    def twice(columns):
        for since in (60, 200):
            rows = (columns.step >= since) & (columns.step < since + 10)
            columns.gradient_fingerprint[rows, 1] += 1

    job = Job(steps=300, faults=(twice,), sample_period=0)
    analysis = RunAnalysis(job.run)
    play(analysis, job)
    found = [each.id for each in analysis.findings() if each.kind == "missing_gradient_sync"]
    assert found == ["job#missing_gradient_sync#1", "job#missing_gradient_sync#2"]
    assert analysis.view().findings_total["missing_gradient_sync"] == 2


def test_changes_are_told_once():
    """A finding is among the changes when it opens and when it resolves, and not in between."""
    job = faulty(sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    seen = []
    for since, rank, batch in job.batches():
        analysis.batch(START + since, rank, job.incarnation + rank, batch)
        seen += [(each.kind, each.status) for each in analysis.changes()]
    assert seen.count(("missing_gradient_sync", "firing")) == 1
    assert seen.count(("missing_gradient_sync", "resolved")) == 1
    assert analysis.changes() == ()


def test_a_duplicate_batch_changes_nothing_but_its_count():
    """A batch that is sent again after a reconnect is refused by its sequence number."""
    job = Job(steps=50)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    batches = list(job.batches())
    for since, rank, batch in batches:
        assert analysis.batch(START + since, rank, job.incarnation + rank, batch)
    before = analysis.view()
    for _, rank, batch in batches:
        assert not analysis.batch(START + 100, rank, job.incarnation + rank, batch)
    after = analysis.view()
    assert after.duplicate_batches == len(batches)
    assert replace(after, duplicate_batches=0) == before
    assert analysis.accepted_sequence(0, job.incarnation) == 10
    assert analysis.accepted_sequence(9, 1) == 0


def test_every_step_is_counted_once():
    """Steps that an agent dropped are missing, steps that come twice in other batches are not counted again."""
    job = Job(ranks=2, steps=40, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    batches = list(job.batches())
    for index, (since, rank, batch) in enumerate(batches):
        if index == 2:
            continue
        analysis.batch(START + since, rank, job.incarnation + rank, batch)
    lost = Dropped("buffer_full", 10, 10, 19)
    analysis.batch(START + 60, 0, job.incarnation, RankBatch(sequence=5, dropped=(lost,)))
    again = replace(batches[6][2], sequence=6)
    analysis.batch(START + 61, 0, job.incarnation, again)
    first, second = analysis.ranks()
    assert (first.steps_received, first.steps_missing, first.dropped_steps) == (30, 10, 10)
    assert (second.steps_received, second.steps_missing) == (40, 0)
    view = analysis.view()
    assert (view.steps_received, view.steps_missing, view.dropped_steps) == (70, 10, {"buffer_full": 10})


def test_a_rank_that_never_reports_holds_nobody_for_long():
    """A rank that never attached is waited for until the late limit, and then no more."""
    job = Job(ranks=4, steps=100, sample_period=0)
    analysis = RunAnalysis(job.run)
    for rank in range(3):
        analysis.hello(START, job.hello(rank))
    for since, rank, batch in job.batches():
        if rank < 3:
            analysis.batch(START + since, rank, job.incarnation + rank, batch)
    assert analysis.view().step == 0
    for second in range(1, 30):
        analysis.tick(START + 22 + second)
    assert analysis.view().step == 99
    assert analysis.view().world_size == 4
    assert len(analysis.ranks()) == 3


def test_a_late_rank_joins_again():
    """A rank that falls behind by more than the limit is left out until it has caught up; its steps count."""
    job = Job(ranks=3, steps=200, sample_period=0, batch_steps=10)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    queues = {rank: [] for rank in range(3)}
    for _, rank, batch in job.batches():
        queues[rank].append(batch)
    for index, batch in enumerate(queues[0]):
        for rank in (0, 1):
            analysis.batch(START + index, rank, job.incarnation + rank, [batch, queues[1][index]][rank])
    assert analysis.view().step == 0
    for second in range(1, 26):
        analysis.tick(START + 20 + second)
    assert analysis.view().step == 199
    for batch in queues[2]:
        analysis.batch(START + 50, 2, job.incarnation + 2, batch)
    assert analysis.ranks()[2].steps_received == 200
    assert analysis.ranks()[2].steps_missing == 0
    more = Job(ranks=3, steps=20, first_step=200, sample_period=0, batch_steps=10, sequence=job.sequence)
    play(analysis, more, START + 60, hello=False)
    assert analysis.view().step == 219
    assert analysis.state.aligner.expected.all()


def test_a_rank_far_behind_does_not_let_memory_grow():
    """One rank stops reporting: only a window of the others' steps is held, not all of them."""
    config = AnalysisConfig(align=AlignConfig(window_steps=256, late_seconds=1e9))
    job = Job(ranks=2, steps=5000, sample_period=0, batch_steps=100)
    analysis = RunAnalysis(job.run, config)
    attach(analysis, job, START)
    for _, rank, batch in job.batches():
        if rank == 0 or batch.sequence < 10:
            analysis.batch(START, rank, job.incarnation + rank, batch)
    assert analysis.view().step >= 5000 - 256 - 101
    assert analysis.state.aligner.steps.floats.nbytes < 3 * 512 * 8 * 2 * 8


def test_a_jump_far_ahead_is_taken():
    """A step number that leaps by a billion takes no memory for what lies between."""
    job, far = (
        Job(ranks=2, steps=50, sample_period=0),
        Job(ranks=2, steps=50, first_step=10**9, sample_period=0),
    )
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    far.sequence = job.sequence
    play(analysis, far, now, hello=False)
    assert analysis.view().step == 10**9 + 49
    assert analysis.state.aligner.steps.floats.nbytes < 10_000_000


def test_evaluations_are_weighted_by_samples():
    """Four ranks evaluate 10 to 40 samples each; the run's loss is the mean over samples, and a metric has its series."""
    job = faulty()
    analysis = played([(rank, batch) for _, rank, batch in with_side_records(job)], job)
    assert analysis.view().evaluation_loss == pytest.approx((2 * 10 + 3 * 20 + 4 * 30 + 5 * 40) / 100)
    assert [point.value for point in analysis.series("evaluation_accuracy", None, None, 10)] == [0.5] * 6


def test_the_view_shows_the_run():
    """Batch size over all ranks, learning rate, epoch, quantiles, histograms and labels."""
    job = Job(steps=100)
    analysis = RunAnalysis(job.run)
    for rank in range(4):
        analysis.hello(START, replace(job.hello(rank), dataset_size=1600, torch_version="2.13", model="GPT"))
    play(analysis, job, hello=False)
    view = analysis.view()
    assert view.effective_batch_size == 32
    assert view.learning_rate == pytest.approx(0.1)
    assert view.epoch == pytest.approx(2.0)
    assert view.info["parallelism"] == "data_parallel"
    assert view.info["model"] == "GPT"
    assert sum(view.phase_histograms["forward"].counts) == 400
    assert view.phase_histograms["forward"].total_seconds == pytest.approx(400 * 0.06, rel=0.05)
    assert view.sync_wait_quantiles[0.5] > 0
    assert view.gradient_norm_local == pytest.approx(2.0, rel=0.2)
    assert {"loss", "learning_rate", "gradient_norm_reduced", "step_seconds"} <= set(analysis.series_names())


def test_finished_runs_are_finished_and_nothing_is_left_behind():
    """The last evaluation and sample come out with the goodbyes."""
    job = Job(steps=100, sample_period=99)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    analysis.batch(
        now, 0, job.incarnation, RankBatch(sequence=10**6, evaluations=(EvaluationPoint(99, 1.5, 10.0),))
    )
    assert analysis.view().evaluation_loss is None
    finish(analysis, job, now)
    assert analysis.view().evaluation_loss == 1.5
    assert analysis.state.aligner.held == {}
    assert analysis.view().state == "finished"


@pytest.mark.suite
def test_memory_is_bounded_over_a_long_run():
    """A hundred thousand steps take hardly more than twenty thousand."""
    job = Job(ranks=2, steps=20_000, sample_period=0, batch_steps=1000, step_seconds=0.05)
    # The checks have a test of their own for this.
    analysis = RunAnalysis(job.run, AnalysisConfig(disabled=CheckConfigs.names()))
    now = play(analysis, job)
    early = len(encode(analysis))
    for part in range(1, 5):
        more = replace(job, first_step=part * 20_000)
        now = play(analysis, more, now, hello=False)
    assert analysis.view().step == 99_999
    assert len(encode(analysis)) < early + 250_000


def test_stalled_time_counts_from_the_onset():
    """A straggler called at step 220 has cost all ranks their time since it began at step 107."""

    def slow(columns):
        columns.input_seconds[columns.step >= 107, 1] += 0.2

    job = Job(steps=250, faults=(slow,), sample_period=0, jitter=0.01)
    analysis = RunAnalysis(job.run)
    play(analysis, job)
    finding = one(analysis, "straggler")
    steps = 250 - finding.since_step
    assert analysis.view().stalled_gpu_seconds["straggler"] == pytest.approx(4 * steps * 0.4, rel=0.1)


def test_telemetry_without_a_hello_is_taken():
    """A batch of a process that never introduced itself is analysed under what is known."""
    job = Job(ranks=1, steps=20, sample_period=0)
    analysis = RunAnalysis(job.run)
    play(analysis, job, hello=False)
    assert analysis.view().step == 19


@pytest.mark.parametrize(
    "make",
    [
        lambda: AlignConfig(late_seconds=0),
        lambda: AlignConfig(window_steps=1),
        lambda: AlignConfig(sample_lag_steps=-1),
        lambda: AnalysisConfig(disabled=("nonsense",)),
        lambda: AnalysisConfig(attentive_seconds=0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    """Each message names the setting."""
    with pytest.raises(ValueError, match=r"align\.|disabled|attentive_seconds"):
        make()


def test_a_disabled_check_says_nothing():
    """Kinds can be turned off."""
    job = faulty(sample_period=0)
    analysis = RunAnalysis(job.run, AnalysisConfig(disabled=("missing_gradient_sync", "straggler")))
    play(analysis, job)
    assert kinds(analysis) == set()


def test_a_check_that_raises_does_not_end_the_watch():
    """A defect in one check is recorded by name; the others go on."""
    job = faulty(sample_period=0)
    analysis = RunAnalysis(job.run)

    def broken(_observation):
        raise RuntimeError("defect")

    class Broken:
        kind = "straggler"
        consumes = analysis.pipeline.checks["straggler"].consumes
        update = staticmethod(broken)

    analysis.pipeline.checks["straggler"] = Broken()
    play(analysis, job)
    assert "missing_gradient_sync" in kinds(analysis)
    assert analysis.failures == {"straggler": "RuntimeError('defect')"}


def test_out_of_order_steps_of_one_rank_are_sorted():
    """Batches of a rank that overlap or come late within the window are put in their place."""
    job = Job(ranks=2, steps=60, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    queues = [[batch for _, rank, batch in job.batches() if rank == which] for which in range(2)]
    for batch in itertools.chain(queues[0][::-1]):
        analysis.batch(START, 0, job.incarnation, replace(batch, sequence=100 - batch.sequence))
    for batch in queues[1]:
        analysis.batch(START, 1, job.incarnation + 1, batch)
    assert analysis.view().step == 59
    assert analysis.ranks()[0].steps_received == 60
    loss = analysis.series("loss", 0, 59, 60)
    assert [point.step for point in loss] == list(range(60))
    assert np.isfinite([point.value for point in loss]).all()


class Listener:
    """A check that keeps what it is told and says nothing."""

    kind = "straggler"
    consumes = (RunDeclaration, AttemptObservation, StepObservation)

    def __init__(self):
        self.heard = []

    def update(self, observation):
        """Keep it."""
        self.heard.append(observation)


def test_checks_are_told_what_the_ranks_declare_before_the_first_step_of_an_attempt():
    """Once an attempt, after its announcement and before its first step, with the hosts of all ranks."""
    analysis, listener = RunAnalysis("job"), Listener()
    analysis.pipeline.checks["straggler"] = listener
    job = Job(ranks=12, steps=20, total_steps=500)
    play(analysis, job)
    play(analysis, restarted(job, first_step=20), START + 100)
    assert [type(each) for each in listener.heard[:2]] == [RunDeclaration, StepObservation]
    told_of = [index for index, each in enumerate(listener.heard) if isinstance(each, RunDeclaration)]
    assert len(told_of) == 2
    first, second = (listener.heard[index] for index in told_of)
    assert (first.step, first.attempt, first.world_size, first.total_steps) == (0, 0, 12, 500)
    assert first.hosts == {rank: f"node{rank // 8}" for rank in range(12)}
    assert (second.step, second.attempt) == (20, 1)
    assert isinstance(listener.heard[told_of[1] - 1], AttemptObservation)
    assert isinstance(listener.heard[told_of[1] + 1], StepObservation)


def test_a_declaration_that_changes_is_told_again_and_one_that_does_not_is_not():
    """A stream that is opened again says the same; a replaced process on another host does not."""
    analysis, listener = RunAnalysis("job"), Listener()
    analysis.pipeline.checks["straggler"] = listener
    job = Job(steps=40)
    now = play(analysis, job)
    attach(analysis, job, now)
    play(analysis, replace(job, first_step=40), now, hello=False)
    assert sum(isinstance(each, RunDeclaration) for each in listener.heard) == 1
    moved = replace(job.hello(3), hostname="spare", incarnation=job.incarnation + 50)
    analysis.hello(now, moved)
    later = replace(job, first_step=80, sequence={})
    for rank in range(4):
        (_, _, batch), *_ = [each for each in later.batches() if each[1] == rank]
        incarnation = moved.incarnation if rank == 3 else job.incarnation + rank
        analysis.batch(now, rank, incarnation, replace(batch, sequence=1000))
    told_last = [each for each in listener.heard if isinstance(each, RunDeclaration)][-1]
    assert told_last.step == 80
    assert told_last.hosts[3] == "spare"
