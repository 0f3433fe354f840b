"""No step for far longer than usual: who holds the others, where it sits, and what is no hang."""

from __future__ import annotations

import json

import pytest

from stallwatch.detector.analysis import AnalysisConfig, RunAnalysis
from stallwatch.detector.checks import CheckConfigs
from stallwatch.detector.checks.hang import HangConfig
from stallwatch.detector.core.inputs import Phase
from support.simulation import START, Job, attach, beat_all, kinds, one, play, restarted

STACK = """  File "/app/train.py", line 40, in main
    batch = next(loader)
  File "/app/data.py", line 17, in fetch
    return queue.get()
"""
IN_SYNC = dict.fromkeys(range(4), Phase.SYNC)
ONE_IN_INPUT = {**IN_SYNC, 2: Phase.INPUT}


def standing(seconds, phase, *, steps=100, config=None, job=None, **beat):
    """A job whose ranks stop after some steps, watched for so long; its heartbeats say `phase`."""
    job = job or Job(steps=steps, sample_period=0)
    analysis = RunAnalysis(job.run, config)
    now = play(analysis, job)
    for second in range(1, seconds + 1):
        beat_all(analysis, job, now + second, phase, last_step=job.steps - 1, phase_seconds=second, **beat)
        analysis.tick(now + second)
    return analysis, job, now + seconds


def test_the_rank_in_another_phase_is_the_culprit():
    """One rank waits for data while the others wait for its gradients: it is named, with its phase and its stack."""
    analysis, _, _ = standing(45, ONE_IN_INPUT, stacks={2: STACK})
    finding = one(analysis, "hang")
    assert finding.ranks == (2,)
    assert finding.since_step == 100
    assert finding.evidence["phase"] == "input"
    assert "fetch (data.py:17)" in finding.reason
    assert finding.severity == "critical"
    assert analysis.view().state == "hung"
    assert analysis.view().state_since_step == 100


def test_it_is_called_after_thirty_seconds_and_not_before():
    """With steps of 0.2 s the floor decides: 29 s are none, 31 s are one."""
    assert kinds(standing(29, ONE_IN_INPUT)[0]) == set()
    assert kinds(standing(31, ONE_IN_INPUT)[0]) == {"hang"}


def test_slow_steps_take_longer_to_be_a_hang():
    """Steps of 6 s make a hang of a minute at least."""
    job = Job(steps=40, step_seconds=6.0, sample_period=0)
    assert kinds(standing(55, ONE_IN_INPUT, job=job)[0]) == set()
    job = Job(steps=40, step_seconds=6.0, sample_period=0)
    assert kinds(standing(90, ONE_IN_INPUT, job=job)[0]) == {"hang"}


def test_the_rank_with_the_fewest_collectives_is_the_culprit():
    """All ranks wait in a collective, but one never issued the one that the others wait in."""
    analysis, _, _ = standing(40, Phase.SYNC, collectives={0: 301, 1: 300, 2: 301, 3: 301})
    finding = one(analysis, "hang")
    assert finding.ranks == (1,)
    assert "never issued collective 301" in finding.reason


def test_nobody_lags_when_all_wait_in_the_same_collective():
    """Equal sequence numbers and phases point to the network, and all ranks are named."""
    analysis, _, _ = standing(40, Phase.SYNC, collectives=300)
    finding = one(analysis, "hang")
    assert finding.ranks == (0, 1, 2, 3)
    assert finding.evidence["decided_by"] == "none"
    assert "network" in " ".join(finding.advice)


@pytest.mark.parametrize(
    "phase",
    [Phase.EVALUATION, Phase.CHECKPOINT, Phase.COMPILATION, Phase.STARTING],
    ids=lambda phase: phase.name,
)
def test_one_rank_in_an_exempt_phase_excuses_all(phase):
    """Others wait while rank 0 evaluates or saves: no hang for as long as that may take."""
    analysis, _, _ = standing(600, {**IN_SYNC, 0: phase})
    assert kinds(analysis) == set()


def test_even_a_checkpoint_must_end():
    """An exempt phase has a limit, too."""
    config = AnalysisConfig(checks=CheckConfigs(hang=HangConfig(exempt_seconds=100.0)))
    assert kinds(standing(99, {**IN_SYNC, 0: Phase.CHECKPOINT}, config=config)[0]) == set()
    assert kinds(standing(130, {**IN_SYNC, 0: Phase.CHECKPOINT}, config=config)[0]) == {"hang"}


def test_the_first_step_may_take_its_time():
    """Before any step is finished, compiling and warming up are no hang."""
    job = Job()
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    for second in range(1, 900):
        beat_all(analysis, job, START + second, Phase.FORWARD, phase_seconds=second)
        analysis.tick(START + second)
    assert kinds(analysis) == set()


def test_it_resolves_when_steps_move_again():
    """The next finished step resolves it, and the run's state is the loss's again."""
    analysis, job, now = standing(45, ONE_IN_INPUT)
    beat_all(analysis, job, now + 1, Phase.FORWARD, last_step=100)
    analysis.tick(now + 1)
    finding = one(analysis, "hang")
    assert finding.status == "resolved"
    assert analysis.view().state != "hung"


def test_a_stack_that_comes_later_is_added():
    """Agents send a stack only when a phase lasts suspiciously long: the finding is updated with it."""
    analysis, job, now = standing(45, ONE_IN_INPUT)
    assert "fetch" not in one(analysis, "hang").reason
    beat_all(analysis, job, now + 1, ONE_IN_INPUT, last_step=99, stacks={2: STACK})
    analysis.tick(now + 1)
    assert "fetch (data.py:17)" in one(analysis, "hang").reason


def test_a_finished_run_does_not_hang():
    """The declared last step is done: whatever comes after is cleaning up."""
    job = Job(steps=100, total_steps=100, sample_period=0)
    assert kinds(standing(120, Phase.INPUT, job=job)[0]) == set()


def test_the_last_rank_may_clean_up():
    """Three ranks said goodbye, the last one saves a model: no hang."""
    job = Job(steps=100, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    for rank in range(1, 4):
        analysis.goodbye(now, rank, job.incarnation + rank, "finished", 99)
    for second in range(1, 100):
        beat_all(analysis, job, now + second, Phase.INPUT, last_step=99, ranks=(0,))
        analysis.tick(now + second)
    assert kinds(analysis) == set()


def test_a_rank_that_ended_early_is_the_culprit():
    """A rank that ran out of batches said goodbye, and the others wait for its gradients."""
    job = Job(steps=100, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    analysis.goodbye(now, 3, job.incarnation + 3, "finished", 99)
    for second in range(1, 50):
        beat_all(analysis, job, now + second, Phase.SYNC, last_step=99, ranks=(0, 1, 2))
        analysis.tick(now + second)
    finding = one(analysis, "hang")
    assert finding.ranks == (3,)
    assert "ended" in finding.reason


def test_it_costs_all_ranks_from_the_last_step_on():
    """Stalled GPU-seconds count ranks times wall time since the last step, not since the call."""
    analysis, _, _ = standing(60, ONE_IN_INPUT)
    assert analysis.view().stalled_gpu_seconds["hang"] == pytest.approx(4 * 60, rel=0.1)


def test_a_restart_clears_it():
    """A new attempt of the job begins without the old one's hang."""
    analysis, job, now = standing(45, ONE_IN_INPUT)
    job.incarnation += 1000
    job.restart_count = 1
    attach(analysis, job, now + 1)
    analysis.tick(now + 2)
    assert one(analysis, "hang").status == "resolved"


def record(*sequences, pending=False):
    """What a rank's flight recorder holds."""
    entries = [
        {
            "op": "gloo:all_reduce",
            "group": "0",
            "sequence": n,
            "sizes": [[20, 4]],
            "type": "Float",
            "done": True,
        }
        for n in sequences
    ]
    if pending:
        entries[-1]["done"] = False
    return json.dumps(entries)


def test_the_collective_that_was_never_issued_is_named():
    """Flight recorders say which operation the others wait in, of what size, and how far the culprit has come."""
    waiting = record(299, 300, 301, pending=True)
    records = {0: waiting, 1: record(299, 300), 2: waiting, 3: waiting}
    phases = {**IN_SYNC, 1: Phase.FORWARD}
    counts = {0: 301, 1: 300, 2: 301, 3: 301}
    finding = one(standing(40, phases, collectives=counts, flight_records=records)[0], "hang")
    assert finding.ranks == (1,)
    assert "rank 1 never issued all_reduce 301 of [20, 4] Float" in finding.reason
    assert finding.evidence["collective"] == "all_reduce"
    assert finding.evidence["collective_sequence"] == 301
    assert finding.evidence["last_collective_of_culprit"] == 300


@pytest.mark.parametrize(
    "text", ["{", "[1, 2]", '{"a": 1}', '[{"sequence": "x", "sizes": 3, "done": false}]']
)
def test_a_flight_record_that_is_none_changes_nothing(text):
    """It comes from another machine, and from a private part of torch."""
    finding = one(standing(40, ONE_IN_INPUT, flight_records={0: text, 2: text})[0], "hang")
    assert finding.ranks == (2,)


def test_pauses_between_steps_that_were_seen_are_usual():
    """A script that does something of its own for 40 s now and then may do it again."""

    def pauses(columns):
        columns.input_seconds[[130, 270]] += 40.0

    job = Job(steps=400, sample_period=0, faults=(pauses,))
    assert kinds(standing(100, Phase.INPUT, job=job)[0]) == set()
    job = Job(steps=400, sample_period=0, faults=(pauses,))
    assert kinds(standing(170, Phase.INPUT, job=job)[0]) == {"hang"}


def test_an_evaluation_that_never_ends_is_found_by_those_before():
    """Two evaluations took two minutes; a third may take ten times as long, and not two hours."""
    job = Job(steps=30, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    step = 29
    for _ in range(2):
        for second in range(1, 121):
            beat_all(analysis, job, now + second, Phase.EVALUATION, last_step=step, phase_seconds=second)
            analysis.tick(now + second)
        now, step = now + 121, step + 1
        beat_all(analysis, job, now, Phase.FORWARD, last_step=step)
        analysis.tick(now)
    for second in range(1, 1500):
        beat_all(analysis, job, now + second, Phase.EVALUATION, last_step=step, phase_seconds=second)
        analysis.tick(now + second)
        if second == 1100:
            assert kinds(analysis) == set()
    assert one(analysis, "hang").evidence["phase"] == "evaluation"


def test_a_restart_clears_what_processes_were_doing():
    """A process died in a checkpoint: the next attempt neither hangs because of it, nor is excused by it."""
    job = Job(steps=60, sample_period=0)
    analysis = RunAnalysis(job.run)
    now = play(analysis, job)
    for second in range(1, 20):
        beat_all(analysis, job, now + second, Phase.CHECKPOINT, last_step=59, phase_seconds=second)
        analysis.tick(now + second)
    for rank in range(job.ranks):
        analysis.disconnect(now + 20, rank, job.incarnation + rank, "reset")
    again = restarted(job, first_step=60, steps=200)
    now = play(analysis, again, now + 25)
    assert "hang" not in kinds(analysis)
    for second in range(1, 45):
        beat_all(analysis, again, now + second, ONE_IN_INPUT, last_step=259, phase_seconds=second)
        analysis.tick(now + second)
    finding = one(analysis, "hang")
    assert finding.ranks == (2,)
    assert finding.since_step == 260


def test_a_hang_ends_with_its_attempt():
    """The launcher restarts a job that hangs: the finding is resolved, and does not come back by itself."""
    analysis, job, now = standing(45, ONE_IN_INPUT)
    again = restarted(job, first_step=100)
    now = play(analysis, again, now + 10)
    finding = one(analysis, "hang")
    assert finding.status == "resolved"
    for second in range(1, 25):
        beat_all(analysis, again, now + second, Phase.FORWARD, last_step=199, phase_seconds=second)
        analysis.tick(now + second)
    assert len([each for each in analysis.findings() if each.kind == "hang"]) == 1


def test_it_is_called_within_three_heartbeats_beyond_the_limit():
    """Heartbeats come every 2 s: with a floor of 6 s, a hang is called before 12 s."""
    config = AnalysisConfig(checks=CheckConfigs(hang=HangConfig(floor_seconds=6.0)))
    assert kinds(standing(5, ONE_IN_INPUT, config=config)[0]) == set()
    assert kinds(standing(12, ONE_IN_INPUT, config=config)[0]) == {"hang"}
