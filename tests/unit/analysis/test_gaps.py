"""Missing data: every hole is known, by rank, steps and reason; none is taken for a fault, and none makes others wait for ever."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.analysis.gaps import MOST_GAPS, MOST_RANGES, GapBook
from stallwatch.detector.core.inputs import Dropped, Phase, RankBatch
from stallwatch.detector.engine import snapshot
from support.simulation import START, Job, attach, beat_all, finish, kinds, play, probed, restarted

FULL = "buffer_full"


def play_with_holes(analysis, job, lost, now=START, *, reports=True, beats=True):
    """A job of which the batches `lost(rank, number)` never come; the next batch of the rank reports them."""
    attach(analysis, job, now)
    pending: dict[int, list[Dropped]] = {}
    count: dict[int, int] = {}
    ticked = at = now
    for since, rank, batch in job.batches():
        at = now + since
        while ticked + 1.0 <= at:
            ticked += 1.0
            if beats:
                beat_all(analysis, job, ticked, Phase.FORWARD)
            analysis.tick(ticked)
        count[rank] = count.get(rank, 0) + 1
        if lost(rank, count[rank] - 1):
            steps = batch.steps.step
            pending.setdefault(rank, []).append(Dropped(FULL, len(steps), int(steps.min()), int(steps.max())))
            continue
        dropped = tuple(pending.pop(rank, ())) if reports else ()
        analysis.batch(at, rank, job.incarnation + rank, replace(batch, dropped=dropped))
    return at


def shown(analysis):
    """The gaps in short."""
    return [(gap.from_step, gap.to_step, gap.ranks, gap.reasons, gap.steps) for gap in analysis.view().gaps]


def test_the_hole_of_one_rank_is_known_with_its_reason():
    """From the first step that is missing to the last, whatever the batches were."""
    job = Job(ranks=4, steps=100, batch_steps=5)
    analysis = RunAnalysis(job.run)
    play_with_holes(analysis, job, lambda rank, number: rank == 3 and 4 <= number < 7)
    assert shown(analysis) == [(20, 34, (3,), (FULL,), 15)]
    assert analysis.view().steps_missing == 15


def test_the_hole_of_all_ranks_is_one_gap():
    """A detector that was away for longer than buffers last."""
    job = Job(ranks=4, steps=100, batch_steps=5)
    analysis = RunAnalysis(job.run)
    play_with_holes(analysis, job, lambda rank, number: 4 <= number < 7 + rank % 2)
    assert shown(analysis) == [(20, 39, (0, 1, 2, 3), (FULL,), 70)]


def test_a_hole_that_nobody_explains_is_a_gap_too():
    """The reason is left open rather than the gap."""
    job = Job(ranks=2, steps=60, batch_steps=5)
    analysis = RunAnalysis(job.run)
    play_with_holes(analysis, job, lambda rank, number: rank == 0 and number == 2, reports=False)
    assert shown(analysis) == [(10, 14, (0,), (), 5)]


def test_a_reason_may_come_before_or_after_the_hole_is_seen():
    """The gateway says what it rejects at once, an agent says what it dropped in the next batch that it makes."""
    job = Job(ranks=1, steps=50, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    batches = [batch for _, _, batch in job.batches()]
    rejected = RankBatch(sequence=2, dropped=(Dropped("rejected", 10, 10, 19),))
    late_word = replace(batches[4], dropped=(Dropped(FULL, 10, 30, 39),))
    for batch in (batches[0], rejected, batches[2], late_word):
        analysis.batch(START + batch.sequence, 0, job.incarnation, batch)
    assert shown(analysis) == [(10, 19, (0,), ("rejected",), 10), (30, 39, (0,), (FULL,), 10)]


def test_a_claim_alone_makes_no_gap():
    """An agent that gives up a batch which had arrived says that it was lost; it was not."""
    job = Job(ranks=1, steps=40, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    for _, _, batch in job.batches():
        spoiled = Dropped(FULL, 10, 0, 9)
        values = Dropped("invalid_value", 3, 0, 39)
        analysis.batch(START, 0, job.incarnation, replace(batch, dropped=(spoiled, values)))
    assert shown(analysis) == []


@pytest.mark.parametrize("agent_says_so", [True, False])
def test_a_rejected_batch_is_counted_once(agent_says_so):
    """The gateway says so, and the agent, if it heard of it, says it again."""
    job = Job(ranks=1, steps=40, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    batches = [batch for _, _, batch in job.batches()]
    lost = Dropped("rejected", 10, 10, 19)
    analysis.batch(START, 0, job.incarnation, batches[0])
    analysis.batch(START, 0, job.incarnation, RankBatch(sequence=2, dropped=(lost,)))
    again = replace(batches[2], dropped=(lost,) if agent_says_so else ())
    analysis.batch(START, 0, job.incarnation, again)
    assert analysis.view().dropped_steps == {"rejected": 10}
    assert shown(analysis) == [(10, 19, (0,), ("rejected",), 10)]


def test_a_rejection_of_which_only_the_agent_knows_is_counted():
    """The analyzer that the gateway had told was killed before it was safe."""
    job = Job(ranks=1, steps=40, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    batches = [batch for _, _, batch in job.batches()]
    analysis.batch(START, 0, job.incarnation, batches[0])
    later = replace(batches[2], dropped=(Dropped("rejected", 10, 10, 19),))
    analysis.batch(START, 0, job.incarnation, later)
    assert analysis.view().dropped_steps == {"rejected": 10}


def test_holes_at_the_ends_of_attempts_are_known():
    """At the beginning by what the process says it begins with, at the end by its goodbye, or by what it had dropped."""
    job = Job(ranks=2, steps=60, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    end = play_with_holes(analysis, job, lambda rank, number: rank == 1 and number in {0, 5})
    finish(analysis, job, end + 1)
    assert shown(analysis) == [(0, 9, (1,), (FULL,), 10), (50, 59, (1,), (), 10)]
    after = restarted(job, first_step=60)
    end = play_with_holes(analysis, after, lambda rank, number: rank == 0 and number == 5, end + 5)
    lost = Dropped(FULL, 10, 110, 119)
    analysis.batch(end, 0, after.incarnation, RankBatch(sequence=99, dropped=(lost,)))
    assert len(analysis.view().gaps) == 2
    play_with_holes(analysis, restarted(after, first_step=120), lambda *_: False, end + 5)
    assert shown(analysis)[2:] == [(110, 119, (0,), (FULL,), 10)]


def test_steps_that_come_too_late_are_a_gap():
    """They are counted as received, and nothing that was said of them rests on them."""
    job = Job(ranks=2, steps=400, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    held = []
    for since, rank, batch in job.batches():
        if rank == 1 and 100 <= int(batch.steps.step[0]) < 350:
            held.append(batch)
            continue
        for each in held if rank == 1 and int(batch.steps.step[0]) >= 350 else ():
            analysis.batch(START + since, 1, job.incarnation + 1, each)
        analysis.batch(START + since, rank, job.incarnation + rank, batch)
        analysis.tick(START + since)
        if rank == 1:
            held = [] if int(batch.steps.step[0]) >= 350 else held
    (gap,) = analysis.view().gaps
    assert (gap.reasons, gap.ranks, gap.from_step) == (("late",), (1,), 100)
    assert analysis.view().steps_missing == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 400))
def test_every_missing_step_is_in_a_gap_of_its_rank(seed, ranks, holes):
    """However many there are: few gaps, all of them together hold every missing step, and as many as are missing."""
    rng = random.Random(seed)
    book, missing = GapBook(), set()
    at = dict.fromkeys(range(ranks), 0)
    for _ in range(holes):
        rank = rng.randrange(ranks)
        first = at[rank] + rng.randrange(1, 50)
        last = first + rng.randrange(30)
        at[rank] = last + 1
        if rng.random() < 0.3:
            book.dropped(rank, FULL, first, last, first - 1)
        book.missing(rank, first, last)
        missing |= {(rank, step) for step in range(first, last + 1)}
    assert len(book.gaps) <= MOST_GAPS
    assert not book.claims
    assert sum(gap.steps for gap in book.gaps) == len(missing)
    for rank, step in missing:
        assert any(gap.from_step <= step <= gap.to_step and gap.holds(rank) for gap in book.gaps)


def test_gaps_of_a_large_world_stay_small():
    """Ten thousand ranks with holes of their own, and claims that nothing ever follows."""
    book, rng = GapBook(), random.Random(5)
    for rank in range(10_000):
        book.missing(rank, rng.randrange(1000), 1000 + rng.randrange(1000))
        for number in range(20):
            book.dropped(rank % 7, "internal_error", 5000 + number, 5000 + number, 4000)
    assert len(book.gaps) <= MOST_GAPS
    assert all(len(gap.ranks) <= MOST_RANGES for gap in book.gaps)
    assert all(len(claims) <= 8 for claims in book.claims.values())
    assert all(len(view.ranks) <= 64 <= view.ranks_total for view in book.views() if view.ranks_total > 64)


def patterns():
    """Who loses what: batches by rank and number."""
    rng = random.Random(7)
    scattered = {(rank, number) for rank in range(4) for number in range(30) if rng.random() < 0.15}
    return {
        "one rank": lambda rank, number: rank == 2 and 8 <= number < 20,
        "all ranks": lambda _rank, number: 8 <= number < 20,
        "all but one": lambda rank, number: rank != 1 and 8 <= number < 20,
        "one after another": lambda rank, number: 6 * rank <= number < 6 * (rank + 1),
        "scattered": lambda rank, number: (rank, number) in scattered,
        "to the end": lambda rank, number: rank == 3 and number >= 20,
    }


def two_attempts(lost):
    """A healthy job of two attempts that lose batches, and the most steps that waited to be analysed."""
    job = Job(ranks=4, steps=300, batch_steps=10, faults=(probed,), dataset_size=10**6)
    analysis = RunAnalysis(job.run)
    end = play_with_holes(analysis, job, lost)
    waiting = analysis.state.aligner.steps.used
    finish(analysis, job, end + 1)
    again = restarted(job, first_step=300)
    end = play_with_holes(analysis, again, lost, end + 10)
    waiting = max(waiting, analysis.state.aligner.steps.used)
    finish(analysis, again, end + 1)
    return analysis, waiting


@pytest.fixture(scope="module")
def undisturbed():
    """What is said of the job when nothing is lost."""
    return kinds(two_attempts(lambda *_: False)[0], learning=True)


@pytest.mark.parametrize("pattern", patterns())
def test_a_gap_is_no_fault(pattern, undisturbed):
    """Of a healthy job of which batches are missing nothing is said that is not said when none are, and nobody is waited for longer."""
    analysis, waiting = two_attempts(patterns()[pattern])
    assert kinds(analysis, learning=True) <= undisturbed
    assert kinds(analysis) == set()
    assert not analysis.failures
    # As many steps as a rank may be behind; none at the end.
    assert waiting <= 20.0 / 0.2 + 20
    assert analysis.state.aligner.steps.used == 0
    assert sum(gap.steps for gap in analysis.view().gaps) >= max(analysis.view().steps_missing, 100)


def test_gaps_are_in_the_snapshot():
    """A restored analysis knows the gaps, and the reasons that are still to come."""
    job = Job(ranks=2, steps=60, batch_steps=10, sample_period=0)
    whole = RunAnalysis(job.run)
    attach(whole, job, START)
    batches = [(rank, batch) for _, rank, batch in job.batches() if (rank, batch.sequence) != (1, 3)]
    pieces = snapshot.decode(snapshot.encode(whole))
    for rank, batch in batches:
        if rank == 1 and batch.sequence == 6:
            batch = replace(batch, dropped=(Dropped(FULL, 10, 20, 29),))  # noqa: PLW2901
        whole.batch(START, rank, job.incarnation + rank, batch)
        pieces = snapshot.decode(snapshot.encode(pieces))
        pieces.batch(START, rank, job.incarnation + rank, batch)
    assert shown(whole) == [(20, 29, (1,), (FULL,), 10)]
    assert snapshot.encode(whole) == snapshot.encode(pieces)


def test_a_goodbye_after_the_largest_step_is_taken():
    """The step after it is a number that no column could hold; found by fuzzing."""
    job = Job(ranks=1, steps=20, batch_steps=10, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    analysis.goodbye(now, 0, job.incarnation, "finished", 2**63 - 1)
    assert analysis.view().state == "finished"
