"""What is remembered besides steps: events, restarts and the states that a run was called."""

from __future__ import annotations

import numpy as np

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.analysis.chronicle import Chronicle
from stallwatch.detector.analysis.ranks import RankTable
from stallwatch.detector.core.inputs import Event, RankBatch
from stallwatch.detector.core.observations import EventObservation
from stallwatch.detector.engine import snapshot
from support.simulation import Job, attach, finish, play, restarted


def test_events_restarts_and_states_are_remembered_over_a_snapshot():
    """In the order of steps; a restart says with how many ranks, and an event of several ranks is one."""
    analysis = RunAnalysis("job")
    job = Job(steps=60)
    attach(analysis, job, 1_700_000_000.0)
    for rank in range(job.ranks):
        event = RankBatch(sequence=1, events=(Event(30, "augmentation", "mixup on"),))
        analysis.batch(1_700_000_000.0, rank, job.incarnation + rank, event)
        job.sequence[rank] = 1
    now = play(analysis, job, hello=False)
    again = restarted(job, first_step=50, ranks=2)
    now = play(analysis, again, now + 10)
    finish(analysis, again, now)
    analysis.tick(now + 1)
    events = [(event.step, event.kind, event.text, event.automatic) for event in analysis.events()]
    assert events == [
        (30, "augmentation", "mixup on", False),
        (50, "restart", "attempt 1 with 2 ranks", True),
    ]
    assert [span.state for span in analysis.states()][-1] == "finished"
    restored = snapshot.decode(snapshot.encode(analysis))
    assert restored.events() == analysis.events()
    assert restored.states() == analysis.states()


def test_a_flood_of_automatic_events_leaves_what_users_said():
    """Each sort has room of its own, and a bound."""
    chronicle = Chronicle()
    chronicle.event(0.0, EventObservation(1, "note", "mine"))
    for step in range(2_000):
        chronicle.event(0.0, EventObservation(step, "lr", "changed", automatic=True))
        chronicle.state(0.0, "improving", step, step)
    assert EventObservation(1, "note", "mine").text in [event.text for event in chronicle.events()]
    assert len(chronicle.events()) == 257
    assert len(chronicle.states) == 256


def test_a_rank_table_of_an_older_version_gets_its_younger_columns():
    """They begin unknown, and have room for every rank."""
    table = RankTable(attached=np.ones(3, np.bool_), last_step=np.arange(3))
    assert table.last_step.tolist() == [0, 1, 2]
    assert np.isnan(table.forward_seconds).tolist() == [True] * 3
    assert table.collectives.tolist() == [-1] * 3


def test_every_rank_shows_its_phases():
    """As typical times of its latest batch, beside the sync wait."""
    analysis = RunAnalysis("job")
    play(analysis, Job(steps=20, jitter=0.0))
    for rank in analysis.ranks():
        assert rank.forward_seconds is not None
        assert abs(rank.forward_seconds - 0.06) < 1e-9
        assert abs(rank.backward_seconds - 0.09) < 1e-9
        assert abs(rank.optimizer_seconds - 0.01) < 1e-9
    assert {"forward_seconds", "backward_seconds", "optimizer_seconds"} <= set(analysis.series_names())
