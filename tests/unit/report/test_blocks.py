"""Long logs in shorter form."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.importers.log import Evaluations
from stallwatch.detector.report.blocks import Block, blocks
from stallwatch.detector.report.replay import replay
from support.training_logs import log_of

SIZE = 16
OPENING = 20_480


def points_of(loss: np.ndarray, rate: np.ndarray | None = None) -> Evaluations:
    steps = np.arange(loss.size, dtype=float)
    nothing = np.full(loss.size, np.nan)
    return Evaluations(steps, np.arange(loss.size), loss, nothing, nothing if rate is None else rate)


def shortened(points: Evaluations, next_look: int = 10**9) -> list[Block]:
    return list(blocks(points, points.row, lambda: next_look, whole=1000))


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(5).normal(2.0, 0.1, size)


def test_short_logs_are_fed_whole():
    """Nothing is saved where nothing needs to be."""
    points = points_of(noise(900))
    assert [block.loss for block in blocks(points, points.row, lambda: 0, whole=1000)] == points.loss.tolist()


def test_no_evidence_is_lost():
    """Every point is in exactly one block, and the blocks' sums are those of the points."""
    loss = noise(60_005)
    made = shortened(points_of(loss))
    assert sum(block.points for block in made) == loss.size
    assert sum(block.points * block.loss for block in made) == pytest.approx(loss.sum())
    assert len(made) < 25_000
    assert all(block.points == 1 for block in made[:OPENING])


@pytest.mark.parametrize("value", [np.nan, np.inf, 9.0])
def test_what_a_single_point_shows_is_seen_point_by_point(value: float):
    """A spike or a value that is not finite, and what stands around it, is not averaged away."""
    loss = noise(60_000)
    loss[40_005] = value
    single = {block.row for block in shortened(points_of(loss)) if block.points == 1}
    assert set(range(40_005 - SIZE, 40_005 + SIZE)) <= single


def test_a_jump_of_the_learning_rate_is_seen_where_it_is():
    """The loss model starts anew there."""
    rate = np.full(60_000, 0.1)
    rate[40_005:] = 0.01
    made = {block.row: block for block in shortened(points_of(noise(60_000), rate))}
    assert (made[40_004].learning_rate, made[40_005].learning_rate) == (0.1, 0.01)


def test_the_points_before_a_look_are_fed_one_by_one():
    """They tell the noise of single points, and whether they alternate."""
    made = shortened(points_of(noise(60_000)), next_look=50_000)
    assert {block.row for block in made if block.points == 1} >= set(range(50_000 - 500, 50_000))
    assert max(block.row for block in made if block.points > 1) < 50_000


@pytest.mark.parametrize("kind", ["plateau", "improving", "spike"])
def test_the_verdict_is_the_same_as_from_every_point(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Shortening a log saves time, and changes neither the states nor the findings."""
    steps = np.arange(45_000)
    loss = 2 + 4 * (1 + steps / 200) ** -0.5
    if kind == "plateau":
        loss[15_000:] = loss[15_000]
    loss += np.random.default_rng(3).normal(0, 0.1, steps.size)
    if kind == "spike":
        loss[38_000:38_040] += 20
    log = log_of(loss)
    outcomes = []
    for whole in (10**9, 1000):
        monkeypatch.setattr("stallwatch.detector.report.blocks.WHOLE_POINTS", whole)
        outcomes.append(replay(log))
    every, short = outcomes
    assert [entry.state for entry in short.states] == [entry.state for entry in every.states]
    assert [entry.from_step for entry in short.states] == [entry.from_step for entry in every.states]
    assert [(f.kind, f.detected_step) for f in short.findings] == [
        (f.kind, f.detected_step) for f in every.findings
    ]
