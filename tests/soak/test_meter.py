"""What counts as growth."""

from __future__ import annotations

import pytest

from soak.meter import Meter


@pytest.mark.parametrize("leak", [0.0, 6.0])
def test_what_comes_and_goes_is_no_growth_and_what_stays_is(leak):
    """Tasks of runs and requests, more of them toward the end; with a leak, six are left by then."""
    meter = Meter(list)
    for number in range(120):
        for_now = 3 * (number % 4) + (number // 100) * 6 * (number % 3)
        meter.add("service", 1, "tasks", 80 + for_now + leak * number / 119, number)
    (trend,) = meter.trends(0, 119)
    assert trend.last - trend.first == pytest.approx(leak, abs=1.0)
    assert trend.is_flat == (leak == 0.0)


@pytest.mark.parametrize("leak", [0.0, 6.0])
def test_a_moment_between_two_connections_is_no_growth(leak):
    """A rank without one at the beginning, as after the last kill of warm-up, and when connections are reset."""
    meter = Meter(list)
    for number in range(150):
        away = number < 2 or number in {40, 41, 120}
        meter.add("rank", 1, "threads", (6 if away else 16) + leak * number / 149, number)
    (trend,) = meter.trends(0, 149)
    assert trend.last - trend.first == pytest.approx(leak, abs=1.0)
    assert trend.is_flat == (leak == 0.0)


@pytest.mark.parametrize("leak", [0.0, 6.0])
def test_a_deduction_that_is_too_much_for_a_moment_is_no_growth(leak):
    """A run that has just come is deducted before its tasks are there; in the last fifth of the time no sample happens to meet one."""
    meter = Meter(list, rests=("other tasks",))
    for number in range(46):
        just_came = number % 4 == 2 and number < 36
        rest = (11 if just_came else 14) - (5 if number in {10, 26} else 0)
        meter.add("service", 1, "other tasks", rest + leak * number / 45, number)
    (trend,) = meter.trends(0, 45)
    assert trend.last - trend.first == pytest.approx(leak, abs=1.0)
    assert trend.is_flat == (leak == 0.0)


def test_what_came_late_and_stayed_is_growth():
    """Six threads of the last quarter of the time."""
    meter = Meter(list)
    for number in range(150):
        meter.add("service", 1, "threads", 39 + (6 if number >= 112 else 0), number)
    (trend,) = meter.trends(0, 149)
    assert trend.last - trend.first == pytest.approx(6, abs=0.1)
    assert not trend.is_flat


def test_memory_is_taken_as_it_is():
    """Its peaks are memory, too."""
    meter = Meter(list)
    for number in range(100):
        meter.add("service", 1, "bytes", 1e8 * (1 + 0.002 * number * (number % 2)), number)
    (trend,) = meter.trends(0, 99)
    assert trend.growth == pytest.approx(0.1, abs=0.01)
    assert not trend.is_flat
