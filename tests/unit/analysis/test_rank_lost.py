"""A rank went silent: its process, or only its agent; and silence that is not the rank's."""

from __future__ import annotations

import pytest

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.core.inputs import Phase
from stallwatch.detector.engine.snapshot import decode, encode
from support.simulation import START, Job, attach, beat_all, kinds, one, play, restarted


def trained(ranks=4, steps=60):
    """A job after some steps."""
    job = Job(ranks=ranks, steps=steps, sample_period=0)
    analysis = RunAnalysis(job.run)
    return analysis, job, play(analysis, job)


def watch(analysis, job, now, seconds, ranks, *, moving=False, phase=Phase.SYNC):
    """Seconds of heartbeats and ticks; with `moving`, these ranks finish a step each second."""
    last = job.steps - 1
    for second in range(1, seconds + 1):
        last += moving
        beat_all(analysis, job, now + second, phase, last_step=last, ranks=ranks)
        analysis.tick(now + second)
    return now + seconds


def test_a_process_that_is_gone_is_called_after_the_grace():
    """Its stream ended without a goodbye, the others stand still: called after 15 s, critical, and no hang besides."""
    analysis, job, now = trained()
    analysis.disconnect(now, 2, job.incarnation + 2, "connection reset")
    now = watch(analysis, job, now, 14, (0, 1, 3))
    assert kinds(analysis) == set()
    watch(analysis, job, now, 60, (0, 1, 3))
    finding = one(analysis, "rank_lost")
    assert finding.ranks == (2,)
    assert finding.severity == "critical"
    assert finding.since_step == 60
    assert finding.evidence["process_gone"]
    assert "connection reset" in finding.reason
    assert kinds(analysis) == {"rank_lost"}
    assert analysis.view().state == "hung"
    assert analysis.ranks()[2].state == "lost"
    assert analysis.view().stalled_gpu_seconds["rank_lost"] == pytest.approx(4 * 74, rel=0.1)


def test_an_agent_that_is_gone_is_a_warning():
    """The others go on finishing steps, which they could not without the rank: only its agent is gone."""
    analysis, job, now = trained()
    analysis.disconnect(now, 2, job.incarnation + 2, "")
    watch(analysis, job, now, 40, (0, 1, 3), moving=True)
    finding = one(analysis, "rank_lost")
    assert finding.severity == "warning"
    assert not finding.evidence["process_gone"]
    assert analysis.view().state != "hung"


def test_a_silent_stream_is_called_after_five_heartbeats():
    """The stream is open, but no heartbeat comes, while others send theirs."""
    analysis, job, now = trained()
    now = watch(analysis, job, now, 5, range(4))
    now = watch(analysis, job, now, 14, (0, 1, 2))
    assert kinds(analysis) == set()
    watch(analysis, job, now, 4, (0, 1, 2))
    assert one(analysis, "rank_lost").ranks == (3,)


def test_a_rank_that_comes_back_in_time_was_never_lost():
    """A reconnect within the grace gives nothing."""
    analysis, job, now = trained()
    analysis.disconnect(now, 2, job.incarnation + 2, "")
    now = watch(analysis, job, now, 10, (0, 1, 3))
    analysis.hello(now, job.hello(2))
    watch(analysis, job, now, 60, range(4), moving=True)
    assert kinds(analysis) == set()


def test_a_rank_that_returns_resolves_it():
    """The same process is heard again."""
    analysis, job, now = trained()
    analysis.disconnect(now, 2, job.incarnation + 2, "")
    now = watch(analysis, job, now, 20, (0, 1, 3))
    analysis.hello(now, job.hello(2))
    watch(analysis, job, now, 5, range(4), moving=True)
    assert one(analysis, "rank_lost").status == "resolved"


def test_a_restart_resolves_it():
    """The launcher starts the job again: the findings about its processes end."""
    analysis, job, now = trained()
    analysis.disconnect(now, 2, job.incarnation + 2, "")
    now = watch(analysis, job, now, 20, (0, 1, 3))
    again = restarted(job)
    play(analysis, again, now + 1)
    assert one(analysis, "rank_lost").status == "resolved"
    assert analysis.view().attempt == 1


@pytest.mark.parametrize("reason", ["finished", "exception: ValueError", "signal: SIGTERM"])
def test_a_goodbye_ends_a_rank_in_order(reason):
    """Ranks that said goodbye are not lost, whenever their streams end."""
    analysis, job, now = trained()
    for rank in range(4):
        analysis.goodbye(now + rank, rank, job.incarnation + rank, reason, 59)
        analysis.disconnect(now + rank, rank, job.incarnation + rank, "closed")
    watch(analysis, job, now + 4, 300, ())
    assert kinds(analysis) == set()
    assert analysis.view().state == "finished"


def test_a_killed_rank_is_called_though_the_others_ended():
    """The launcher ends the others when one is killed: that one is still missing its goodbye."""
    analysis, job, now = trained()
    analysis.disconnect(now, 1, job.incarnation + 1, "")
    for rank in (0, 2, 3):
        analysis.goodbye(now + 1, rank, job.incarnation + rank, "signal: SIGTERM", 59)
    watch(analysis, job, now + 1, 20, ())
    assert one(analysis, "rank_lost").ranks == (1,)


def test_silence_of_all_ranks_takes_a_minute():
    """Nobody is heard: the network may be gone as well, so it takes longer, and then the run is lost."""
    analysis, job, now = trained()
    watch(analysis, job, now, 55, ())
    assert kinds(analysis) == set()
    watch(analysis, job, now + 55, 10, ())
    assert one(analysis, "rank_lost").ranks == (0, 1, 2, 3)
    assert analysis.view().state == "lost"


def test_the_detector_s_own_outage_is_nobody_s_silence():
    """After ten minutes without the detector, clocks go on from where they were: no rank is lost, nothing hangs."""
    analysis, job, now = trained()
    now = watch(analysis, job, now, 5, range(4))
    restored = decode(encode(analysis))
    now += 600
    watch(restored, job, now, 9, ())
    now = watch(restored, job, now + 9, 30, range(4), moving=True)
    assert kinds(restored) == set()
    watch(restored, job, now, 20, (0, 1, 2), moving=True)
    assert one(restored, "rank_lost").ranks == (3,)


def test_a_job_that_never_trains_is_not_lost():
    """Ranks that have attached and load data for an hour send heartbeats: that is enough."""
    job = Job()
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    watch(analysis, Job(steps=0), START, 600, range(4), phase=Phase.STARTING)
    assert kinds(analysis) == set()


def test_a_node_that_is_gone_is_named():
    """All eight ranks of one node of two end at once: the node is named, and where to look."""
    analysis, job, now = trained(ranks=16)
    for rank in range(8, 16):
        analysis.disconnect(now, rank, job.incarnation + rank, "timed out")
    watch(analysis, job, now, 40, range(8))
    finding = one(analysis, "rank_lost")
    assert finding.ranks == tuple(range(8, 16))
    assert finding.reason.startswith("Node node1 (ranks 8, 9")
    assert finding.evidence["node"] == "node1"
    assert "that machine and its network" in finding.advice[0]


def test_a_rank_that_died_before_its_last_steps_were_sent_is_dated_by_the_others():
    """Its last batch never came, but the others could not have finished their steps without it."""
    job = Job(steps=60, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    analysis.disconnect(START + 1, 2, job.incarnation + 2, "connection reset")
    for second in range(1, 40):
        beat_all(analysis, job, START + second, Phase.SYNC, last_step=59, ranks=(0, 1, 3))
        analysis.tick(START + second)
    assert one(analysis, "rank_lost").since_step == 60
