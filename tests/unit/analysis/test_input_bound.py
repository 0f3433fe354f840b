"""All ranks wait for data: a job, not a rank, and not a toy whose steps are milliseconds."""

from __future__ import annotations

import pytest

from support.simulation import Job, analyze, kinds, one

FROM = 100


def waits(seconds, ranks=slice(None), since=FROM, until=10**9, every=1):
    """Some ranks wait for data before some steps."""

    def fault(columns):
        rows = (columns.step >= since) & (columns.step < until) & (columns.step % every == 0)
        columns.input_seconds[rows, ranks] += seconds

    return fault


def run(*faults, **job):
    """The analysis of a job."""
    return analyze(Job(**{"steps": 400, "sample_period": 0, "batch_steps": 20, **job}, faults=faults))


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_all_ranks_waiting_for_data_are_found(ranks):
    """40 % of each step is waiting for data, on all ranks: named with its share, and nothing else is."""
    analysis = run(waits(0.12), ranks=ranks)
    finding = one(analysis, "input_bound")
    assert finding.severity == "warning"
    assert abs(finding.since_step - FROM) <= 10
    assert finding.evidence["input_share"] == pytest.approx(0.41, abs=0.05)
    assert finding.detected_step <= FROM + 120
    assert kinds(analysis) == {"input_bound"}


def test_it_is_found_when_it_was_so_from_the_first_step():
    """Most input-bound jobs are that all along."""
    finding = one(run(waits(0.12, since=0)), "input_bound")
    assert finding.since_step <= 1


def test_one_rank_alone_is_a_straggler():
    """The others wait for the rank, not for data."""
    analysis = run(waits(0.12, ranks=2))
    assert kinds(analysis) == {"straggler"}


@pytest.mark.parametrize("step_seconds", [0.003, 0.008])
def test_a_toy_s_own_python_between_steps_is_nothing(step_seconds):
    """Steps of milliseconds, half of which are the script's own work between them."""
    assert kinds(run(waits(step_seconds, since=0), step_seconds=step_seconds, steps=3000)) == set()


def test_pauses_between_steps_do_not_count():
    """Evaluating or saving for seconds every 20 steps is no waiting for data in a typical step."""
    assert kinds(run(waits(5.0, every=20))) == set()


def test_a_tenth_of_the_step_is_usual():
    """Loaders that keep up take a few percent."""
    assert kinds(run(waits(0.02, since=0))) == set()


def test_it_resolves_when_data_is_there_again():
    """Sixty steps without it."""
    finding = one(run(waits(0.12, until=260), steps=500), "input_bound")
    assert finding.status == "resolved"
    assert 300 <= finding.resolved_step <= 340
