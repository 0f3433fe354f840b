"""The verdict on a log, and its words, places and costs."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from stallwatch.detector.core.learning import LOSS_STATES
from stallwatch.detector.report.curve import envelope, span_of_values, trend
from stallwatch.detector.report.document import document, to_json
from stallwatch.detector.report.elapsed import elapsed_seconds
from stallwatch.detector.report.outcome import Outcome
from stallwatch.detector.report.positions import Positions
from stallwatch.detector.report.replay import replay
from stallwatch.detector.report.text import STATE_WORDS, cost_words, count, duration, percent, show
from support.training_logs import log_of


def flat_after(part: float, size: int = 2000, seed: int = 1) -> np.ndarray:
    """A loss that falls like a power law until it stops for good."""
    steps = np.arange(size)
    loss = 1 + 4 * (1 + steps / 20) ** -0.7
    loss[int(part * size) :] = loss[min(int(part * size), size - 1)]
    return loss + np.random.default_rng(seed).normal(0, 0.02, size)


@pytest.fixture(scope="module")
def plateau() -> Outcome:
    """A run that stopped learning after 30 % of its steps, an hour a thousand steps."""
    loss = flat_after(0.3)
    return replay(log_of(loss, wall_time=1.7e9 + np.arange(loss.size) * 3.6))


def test_a_plateau_is_found_and_dated(plateau: Outcome):
    """The state, its finding, and the estimate of the onset agree."""
    assert plateau.state == "plateau"
    assert plateau.states[0].state == "warming_up"
    assert {finding.kind for finding in plateau.findings if finding.status == "firing"} == {"plateau"}
    assert 400 <= plateau.states[-1].since_step <= 900
    assert plateau.states[-1].since_step <= plateau.states[-1].from_step
    assert plateau.alarming
    assert plateau.worst is not None
    assert plateau.worst.reason == plateau.summary_reason


def test_its_cost_is_told_in_steps_and_hours(plateau: Outcome):
    """What was spent after the onset is the price of not having looked."""
    assert 0.5 < plateau.flat_share < 0.8
    assert plateau.hours == pytest.approx(2.0, rel=0.01)
    assert plateau.flat_hours == pytest.approx(2.0 * plateau.flat_share, rel=0.01)
    words = cost_words(plateau)
    assert words is not None
    assert "of the run without learning" in words
    assert words.endswith("h of 2.0 h")


def test_the_document_has_the_fields_of_the_contract(plateau: Outcome):
    """Scripts read these names."""
    written = json.loads(to_json([plateau]))
    assert {"file", "axis", "states", "findings", "summary"} <= written.keys()
    assert all({"state", "from_step", "reason"} <= entry.keys() for entry in written["states"])
    assert all(entry["state"] in LOSS_STATES for entry in written["states"])
    (finding,) = [finding for finding in written["findings"] if finding["kind"] == "plateau"]
    assert list(finding) == [
        *("id", "kind", "category", "severity", "confidence", "status", "since_step", "detected_step"),
        *("resolved_step", "ranks", "layers", "reason", "evidence", "advice", "causes"),
    ]
    assert written["summary"]["loss"]["forecast"].keys() == {
        "horizon_steps",
        "relative_improvement",
        "low",
        "high",
    }
    assert len(json.loads(to_json([plateau, plateau]))) == 2


def test_what_json_cannot_say_is_null():
    """NaN and infinity are no JSON."""
    outcome = replay(log_of([1.0, float("nan"), float("inf")]))
    written = json.dumps(document(outcome), allow_nan=False)
    assert "NaN" not in written.replace("was NaN", "")
    assert {finding.kind for finding in outcome.findings} == {"non_finite"}


def test_a_loss_that_stays_not_finite_has_diverged():
    """An improving run does not end as improving when all it logs is NaN; one that recovers does."""
    loss = flat_after(1.0, 600)
    loss[500:] = np.nan
    broken = replay(log_of(loss))
    assert (broken.state, broken.states[-1].since_step, broken.states[-1].from_step) == (
        "diverging",
        500,
        502,
    )
    assert broken.horizon_end is None
    assert "not been a finite number since step 500" in broken.summary_reason
    loss[500:] = flat_after(1.0, 600)[500:]
    loss[500:502] = np.nan
    assert replay(log_of(loss)).state != "diverging"


@pytest.mark.parametrize("loss", [[], [2.0], [2.0] * 500, [float("nan")] * 50, [1e300, 1e308] * 50])
def test_logs_with_nothing_in_them_have_a_verdict_too(loss: list[float]):
    """No points, one point, a constant, only NaN: no traceback, and a sentence."""
    outcome = replay(log_of(loss))
    assert outcome.states[0].state == "warming_up"
    assert outcome.summary_reason
    json.loads(to_json([outcome]))


def test_what_was_called_does_not_depend_on_what_came_after(plateau: Outcome):
    """The history of states is as it was live: a longer log begins with the history of a shorter one."""
    half = replay(log_of(plateau.log.loss[:1500]))
    called = [(entry.state, entry.from_step) for entry in plateau.states if entry.from_step < 1500]
    assert [(entry.state, entry.from_step) for entry in half.states] == called


def test_a_restart_is_an_attempt_and_no_error():
    """Steps that go back are taken as the live service takes them."""
    loss = flat_after(0.3)
    steps = np.concatenate([np.arange(1000), np.arange(800, 1800)])
    assert replay(log_of(loss, steps)).last_step == 1799


def test_epochs_are_called_epochs():
    """The sentences speak of what the axis counts."""
    outcome = replay(log_of(flat_after(0.3, 300), np.arange(1, 301), axis="epoch"))
    assert "epoch" in outcome.summary_reason
    assert "step" not in outcome.summary_reason
    assert all("step" not in finding.reason for finding in outcome.findings)


def test_parts_of_epochs_keep_their_place():
    """A fractional axis is counted in records inside, and told in epochs."""
    epochs = np.arange(1, 401) / 8
    outcome = replay(log_of(flat_after(0.3, 400), epochs, axis="epoch"))
    assert outcome.last_step == 50
    assert all(0 <= entry.from_step <= 50 for entry in outcome.states)
    assert all(0 <= finding.since_step <= finding.detected_step <= 50 for finding in outcome.findings)


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("Flat since step 1,200 for 300 steps.", "Flat since epoch 1,200 for 300 epochs."),
        ("Steps 10 to 20, 0.1 per step.", "Epochs 10 to 20, 0.1 per epoch."),
        ("Since about step 12 the steps overshoot.", "Since about epoch 12 the steps overshoot."),
    ],
)
def test_only_what_is_counted_is_renamed(sentence: str, told: str):
    """A step of the optimizer stays a step."""
    assert Positions("epoch", np.zeros(0)).words(sentence) == told
    assert Positions("step", np.zeros(0)).words(sentence) == sentence


def test_steps_below_zero_are_moved_and_moved_back():
    """Some count a sanity check before training as step -1."""
    positions = Positions.of(log_of([3.0, 2.0], [-1, 0]))
    assert positions.encode(np.array([-1.0, 0.0])).tolist() == [0, 1]
    assert positions.decode(0) == -1


def test_a_clock_that_starts_again_is_added_on():
    """Time since the start of the process begins anew after a restart."""
    elapsed = elapsed_seconds(np.array([np.nan, 0.0, 10.0, 2.0, 12.0]))
    assert elapsed is not None
    assert elapsed.tolist() == [0, 0, 10, 10, 20]
    assert elapsed_seconds(np.array([np.nan])) is None


def test_numbers_are_written_to_be_read():
    """Digits that matter, and no more."""
    assert [count(12000), count(3.25), count(1234.5)] == ["12,000", "3.25", "1,234"]
    assert [percent(0.25), percent(0.0123), percent(0.0)] == ["25 %", "1.2 %", "0.0 %"]
    assert [duration(3), duration(0.5), duration(0.001)] == ["3.0 h", "30.0 min", "4 s"]
    assert set(STATE_WORDS) == set(LOSS_STATES)


def test_runs_of_one_name_are_told_apart_by_their_files(plateau: Outcome):
    """Logs in one folder bear its name; in the table their files stand instead."""
    console = Console(width=120, record=True, file=io.StringIO())
    others = [replace(plateau, log=replace(plateau.log, file=f"runs/{name}.csv")) for name in ("a", "b")]
    show(others, console)
    text = console.export_text()
    assert "runs/a.csv" in text.splitlines()[2]
    assert "runs/b.csv" in text.splitlines()[3]


def test_a_log_of_optimizer_steps_is_not_judged_by_its_first_hundred():
    """A curve of fifty "steps" counts epochs and is judged; the same points at the head of a long log are not."""
    short = np.where(np.arange(60) < 20, 2.0 - 0.05 * np.arange(60), 1.0)
    long = np.concatenate([short, 1.0 - 0.0005 * np.arange(1500)])
    first = next(entry for entry in replay(log_of(short)).states if entry.state == "plateau")
    assert first.from_step < 60
    assert not any(entry.state == "plateau" for entry in replay(log_of(long)).states if entry.from_step < 100)


def test_a_trend_follows_the_curve_and_not_a_spike():
    """What is drawn as the trend lies on the curve behind the noise."""
    steps = np.arange(5000.0)
    clean = 1 + 4 * (1 + steps / 50) ** -0.7
    noisy = clean + np.random.default_rng(2).normal(0, 0.05, steps.size)
    noisy[2500] = 50
    places, levels = trend(steps, noisy)
    settled = places > 100
    assert np.abs(levels - np.interp(places, steps, clean))[settled].max() < 0.05


def test_many_points_are_drawn_as_a_band():
    """A thousand pixels cannot show ten thousand points."""
    few, many = (
        envelope(np.arange(10.0), np.arange(10.0)),
        envelope(np.arange(1e4), np.random.default_rng(1).random(10_000)),
    )
    assert not few.is_band
    assert many.is_band
    assert many.step.size <= 400


def test_the_picture_leaves_out_the_steep_beginning_and_takes_a_log_axis_where_it_must():
    """The part where it is decided whether a run still learns fills the picture."""
    steps = np.arange(2000)
    low, high, logarithmic = span_of_values(2 + 9 * np.exp(-steps / 20), np.zeros(0))
    assert (low < 2.01, high < 4, logarithmic) == (True, True, False)
    assert span_of_values(np.logspace(0, -6, 1000), np.zeros(0))[2]
    assert span_of_values(np.zeros(0), np.zeros(0)) == (0.0, 1.0, False)
