"""What agents say of their own cost, and how far they have backed off, in the read models of ranks and run."""

from __future__ import annotations

import pytest

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.core.inputs import Phase, RankHeartbeat
from support.simulation import START, Job, attach


def beat(at: float, seconds: float, period: int = 16) -> RankHeartbeat:
    """A heartbeat of an agent that has taken so many seconds by then, one in five of them on its own threads."""
    return RankHeartbeat(
        phase=Phase.FORWARD,
        phase_seconds=0.0,
        last_step=-1,
        training_thread_seconds=0.8 * seconds,
        background_seconds=0.2 * seconds,
        sample_period=period,
        sent_seconds=at,
    )


@pytest.fixture
def job() -> Job:
    """Two ranks."""
    return Job(ranks=2)


def heard(job: Job, *beats: tuple[int, RankHeartbeat]) -> RunAnalysis:
    """An analysis that has heard these."""
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    for rank, each in beats:
        analysis.heartbeat(each.sent_seconds, rank, job.incarnation + rank, each)
    return analysis


def test_share_is_that_of_the_latest_span(job):
    """A costly beginning does not stay in it: after a minute the comparison begins anew."""
    beats = [(0, beat(START + 2 * n, min(2.0 * n, 20.0) + 0.02 * n)) for n in range(100)]
    analysis = heard(job, *beats[:12])
    assert analysis.ranks()[0].agent_share == pytest.approx(20.22 / 22, rel=0.01)
    assert heard(job, *beats).ranks()[0].agent_share == pytest.approx(0.01, rel=0.01)


def test_nothing_is_said_before_there_is_a_span(job):
    """Two heartbeats 2 s apart say nothing yet; the period is known at once."""
    analysis = heard(job, (0, beat(START, 0.0)), (0, beat(START + 2, 1.0, 128)))
    assert analysis.ranks()[0].agent_share is None
    assert analysis.ranks()[0].sample_period == 128
    assert analysis.view().agent_share is None


def test_the_run_tells_its_longest_period_and_who_waits_for_it(job):
    """What only samples show is found within some periods of the rank that samples least; nothing is told before an agent is heard."""
    assert RunAnalysis(job.run).view().sample_period == 0
    view = heard(job, (0, beat(START, 0.0, 16)), (1, beat(START, 0.0, 32))).view()
    assert view.sample_period == 32
    assert {"replica_desync", "rank_outlier", "ineffective_update"} <= set(view.waiting_checks)
    assert not {"hang", "straggler", "plateau", "input_bound"} & set(view.waiting_checks)


def test_clock_that_jumps_is_no_cost(job):
    """A day forward or back begins the comparison anew."""
    for jump in (86_400.0, -86_400.0):
        beats = [(0, beat(START + n + (jump if n >= 20 else 0.0), 0.01 * n)) for n in range(60)]
        assert heard(job, *beats).ranks()[0].agent_share == pytest.approx(0.01)


def test_the_run_has_the_worst_of_its_ranks(job):
    """The largest share; how sparsely each samples is told of the ranks."""
    beats = [(rank, beat(START + n, 0.01 * n * (rank + 1), 16 << rank)) for n in range(20) for rank in (0, 1)]
    analysis = heard(job, *beats)
    assert analysis.view().agent_share == pytest.approx(0.02)
    assert [each.sample_period for each in analysis.ranks()] == [16, 32]
