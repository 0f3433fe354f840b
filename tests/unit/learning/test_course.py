"""The course of a series in bounded memory."""

from __future__ import annotations

import numpy as np

from stallwatch.detector.signals.course import Course


def test_a_long_run_is_as_fine_at_its_beginning_as_at_its_end():
    """100,000 values in at most 128 points, all of the same width but the latest."""
    course = Course()
    for step in range(100_000):
        course.add(step, float(step))
    steps, values = course.arrays()
    assert 64 <= steps.size <= 128
    assert np.allclose(np.diff(steps)[:-1], course.stride)
    assert np.allclose(steps, values)
    assert sum(course.weights) == 100_000


def test_what_comes_again_replaces_what_was():
    """After a restart the repeated steps count once."""
    course = Course()
    for step in range(100):
        course.add(step, 1.0)
    course.forget_from(50)
    for step in range(50, 80):
        course.add(step, 2.0)
    steps, values = course.arrays()
    assert steps.tolist() == list(range(80))
    assert values[50:].tolist() == [2.0] * 30


def test_values_out_of_order_find_their_place():
    """Late evaluations are put where they belong."""
    course = Course()
    for step in (0, 10, 5):
        course.add(step, float(step))
    assert course.arrays()[0].tolist() == [0.0, 5.0, 10.0]
