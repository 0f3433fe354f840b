"""The block history: additive, bounded, exact."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.signals.history import BlockHistory


def test_blocks_are_means_of_their_steps() -> None:
    """Every block is the exact mean of the points of its steps."""
    values = np.random.default_rng(0).normal(size=5000)
    history = BlockHistory()
    for step, value in enumerate(values):
        history.add(step, float(value))
    for level in range(len(history.levels)):
        size = 1 << level
        for step, mean, weight in history.blocks(level, 0, 5000):
            start = int(step) // size * size
            assert mean == pytest.approx(values[start : start + size].mean())
            assert weight == len(values[start : start + size])


def test_order_does_not_matter() -> None:
    """The coarsest level is the same whatever order the points come in, gaps and repetitions included."""
    rng = np.random.default_rng(1)
    steps = rng.integers(0, 3000, 2000)
    values = rng.normal(size=2000)
    ordered, shuffled = BlockHistory(16), BlockHistory(16)
    for index in np.argsort(steps, kind="stable"):
        ordered.add(int(steps[index]), float(values[index]))
    for step, value in zip(steps, values, strict=True):
        shuffled.add(int(step), float(value))
    top = len(ordered.levels) - 1
    assert len(shuffled.levels) - 1 == top
    np.testing.assert_allclose(shuffled.blocks(top, 0, 3000), ordered.blocks(top, 0, 3000))


def test_nothing_is_lost_over_the_whole_range() -> None:
    """A query of everything accounts for every point exactly once."""
    history = BlockHistory()
    for step in range(0, 100_000, 7):
        history.add(step, 1.0, 2.0)
    for points in (10, 100, 5000):
        rows = history.query(0, 100_000, points)
        assert len(rows) <= points
        assert sum(weight for _, _, weight in rows) == pytest.approx(2.0 * history.count)
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_state_is_small_and_grows_with_the_logarithm() -> None:
    """Ten million steps take at most 64 KiB."""
    history = BlockHistory()
    step = 0
    while step < 10_000_000:
        history.add(step, 1.0)
        step += 997
    assert sum(level.nbytes for level in history.levels) <= 64 * 1024


def test_wrong_use_is_refused() -> None:
    """A negative step and an odd capacity are errors."""
    with pytest.raises(ValueError, match="step"):
        BlockHistory().add(-1, 0.0)
    with pytest.raises(ValueError, match="capacity"):
        BlockHistory(9)
