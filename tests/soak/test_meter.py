"""What counts as growth."""

from __future__ import annotations

import pytest

from soak.meter import HELD, LOAD, Meter


def scrape(meter: Meter, now: float, monkeypatch, *, tasks: float, streams: float) -> None:
    """A service that holds so many tasks for so many streams, of two ranks a run."""
    monkeypatch.setattr("soak.meter.time.monotonic", lambda: now)
    told = dict.fromkeys(HELD.values(), 40.0) | {HELD["tasks"]: tasks}
    told |= {LOAD["streams"]: streams, LOAD["runs"]: streams / 2}
    meter.add_scrape("service", 1, "".join(f"{metric} {value}\n" for metric, value in told.items()))


@pytest.mark.parametrize("leak", [0.0, 5.0])
def test_tasks_of_streams_are_no_growth_and_those_that_stay_are(monkeypatch, leak):
    """More streams at the end than at the beginning, three tasks each; with a leak, five more than those."""
    meter = Meter(list, scraped={"service"})
    for number in range(60):
        streams = 8 + 2 * (number % 3) + number // 15
        scrape(meter, number, monkeypatch, tasks=30 + 3 * streams + leak * number / 59, streams=streams)
    trends = {each.what: each for each in meter.trends(0, 59)}
    assert trends["service tasks"].last - trends["service tasks"].first == pytest.approx(leak, abs=1e-6)
    assert trends["service tasks"].is_flat == (leak == 0.0)
    assert trends["service files"].is_flat
    assert trends["service threads"].is_flat


def test_no_answer_is_no_sample():
    """A service that was killed a moment ago tells nothing."""
    meter = Meter(list)
    meter.add_scrape("service", 1, "")
    assert not meter.trends(0.0, 1e12)
