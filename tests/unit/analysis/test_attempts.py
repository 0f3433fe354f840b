"""Restarts, relaunches and other worlds: what begins a new attempt, and what does not."""

from __future__ import annotations

from dataclasses import replace

from stallwatch.detector.analysis import RunAnalysis
from support.simulation import START, Job, attach, finish, kinds, play, restarted


def test_a_restart_begins_an_attempt_from_a_checkpoint():
    """After a restart from step 60 of 100, the attempt counts up, and only its own steps are the ranks'."""
    job = Job(steps=100, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    for rank in range(4):
        analysis.disconnect(now, rank, job.incarnation + rank, "")
    again = restarted(job, first_step=60, steps=80)
    play(analysis, again, now + 5)
    view = analysis.view()
    assert (view.attempt, view.step, view.steps_received, view.steps_missing) == (1, 139, 720, 0)
    assert [each.steps_received for each in analysis.ranks()] == [80] * 4
    assert kinds(analysis) == set()


def test_steps_of_a_rank_that_died_ahead_are_still_analysed():
    """What only some ranks had sent before a restart is analysed without the others."""
    job = Job(ranks=2, steps=100, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    for _, rank, batch in job.batches():
        if rank == 0 or batch.sequence < 6:
            analysis.batch(START, rank, job.incarnation + rank, batch)
    assert analysis.view().step == 49
    analysis.hello(START + 1, restarted(job).hello(1))
    assert analysis.view().step == 99


def test_a_process_of_an_old_attempt_is_not_heard():
    """A late batch of a process that was replaced is taken, so that it is not sent again, and changes nothing."""
    job = Job(steps=50, sample_period=0)
    analysis = RunAnalysis(job.run)
    batches = list(job.batches())
    attach(analysis, job, START)
    for since, rank, batch in batches[:-1]:
        analysis.batch(START + since, rank, job.incarnation + rank, batch)
    again = restarted(job)
    attach(analysis, again, START + 60)
    _, rank, batch = batches[-1]
    analysis.hello(START + 61, job.hello(rank))
    assert analysis.batch(START + 61, rank, job.incarnation + rank, batch)
    assert analysis.accepted_sequence(rank, job.incarnation + rank) == batch.sequence
    assert analysis.view().attempt == 1
    assert analysis.ranks()[rank].steps_received == 0
    assert analysis.ranks()[rank].incarnation == str(again.incarnation + rank)


def test_the_world_may_change_at_a_restart():
    """Eight ranks become four; nobody waits for the ones that are gone."""
    job = Job(ranks=8, steps=60, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    smaller = restarted(job, ranks=4, first_step=60, steps=60)
    play(analysis, smaller, now + 5)
    assert (analysis.view().world_size, analysis.view().step) == (4, 119)


def test_without_a_launcher_s_word_a_new_process_is_a_new_attempt():
    """Neither restart count nor launch id: a later process of a rank that was there means that the job began again."""
    job = Job(steps=50, sample_period=0, launch_id="")
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    again = replace(restarted(job, first_step=20, steps=50), restart_count=0)
    play(analysis, again, now + 5)
    assert (analysis.view().attempt, analysis.view().step) == (1, 69)


def test_one_replaced_rank_in_a_running_job_is_no_new_attempt():
    """An elastic launcher replaces one rank of a job that goes on: same launch, same count, the others live."""
    job = Job(steps=50, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    newcomer = replace(job.hello(3), incarnation=job.incarnation + 500)
    analysis.disconnect(now, 3, job.incarnation + 3, "")
    analysis.hello(now + 1, newcomer)
    assert analysis.view().attempt == 0
    assert analysis.ranks()[3].incarnation == str(newcomer.incarnation)


def test_a_relaunch_after_the_end_is_a_new_attempt():
    """The same launch id and count, but all the old processes have said goodbye."""
    job = Job(steps=50, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    finish(analysis, job, now)
    assert analysis.view().state == "finished"
    again = replace(restarted(job), restart_count=0)
    play(analysis, again, now + 100)
    assert analysis.view().attempt == 1
    assert analysis.view().state != "finished"


def test_a_rank_that_was_new_to_the_old_attempt_belongs_to_the_restart_that_follows():
    """Rank 0 never reported before; at a restart without a launcher's count it comes first, and must not be lost with the old."""
    job = Job(ranks=2, steps=60, batch_steps=10, sample_period=0, launch_id="")
    analysis = RunAnalysis(job.run)
    analysis.hello(START, job.hello(1))
    analysis.disconnect(START + 5, 1, job.incarnation + 1, "")
    again = replace(job, incarnation=job.incarnation + 100_000)
    analysis.hello(START + 100, again.hello(0))
    analysis.hello(START + 101, again.hello(1))
    for since, rank, batch in again.batches():
        analysis.batch(START + 101 + since, rank, again.incarnation + rank, batch)
    assert analysis.view().attempt == 1
    assert [each.steps_received for each in analysis.ranks()] == [60, 60]


def test_a_rank_that_is_left_of_the_old_attempt_is_not_taken_along():
    """Its stream has not broken yet when another rank is back: it started with the old ones."""
    job = Job(ranks=2, steps=60, batch_steps=10, sample_period=0, launch_id="")
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    again = replace(job, incarnation=job.incarnation + 100_000)
    attach(analysis, again, START + 100)
    assert analysis.view().attempt == 1
    assert analysis.state.attempt.previous == {0: job.incarnation, 1: job.incarnation + 1}


def test_a_restart_after_the_clock_was_set_back_is_one():
    """The launcher counts it; the start of its processes seems to lie before that of the old ones."""
    job = Job(ranks=2, steps=30, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    analysis.hello(START, replace(job.hello(0), launch_id="one"))
    analysis.hello(START, replace(job.hello(1), launch_id="one"))
    again = replace(job, incarnation=job.incarnation - 500)
    for rank in range(2):
        analysis.hello(START + 60, replace(again.hello(rank), launch_id="one", restart_count=1))
    for since, rank, batch in again.batches():
        analysis.batch(START + 60 + since, rank, again.incarnation + rank, batch)
    assert analysis.view().attempt == 1
    assert [each.steps_received for each in analysis.ranks()] == [30, 30]
