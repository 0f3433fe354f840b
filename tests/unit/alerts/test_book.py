"""The life of alerts, second by second: begun once, kept over gaps, ended once, quiet where that is wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stallwatch.detector.alerts.book import UNSEEN_SECONDS, AlertBook
from stallwatch.detector.alerts.naming import Links, alert_name
from stallwatch.detector.alerts.silences import Silence
from support.shown_runs import finding, full_run

RUN = "team/run:1"
HANG = finding(RUN, "hang")
VIEW = full_run(RUN, ("hang",)).view
CALM = replace(VIEW, findings=())
OVER = replace(HANG, status="resolved", resolved_step=1200, resolved_at=50.0)


def told(book: AlertBook, now: float) -> list[str]:
    """What is to be told now."""
    book.pass_time(now)
    return [event.status for event in book.take_changes()[1]]


def silence(run: str | None = RUN, kind: str | None = None, until: float = 100.0) -> Silence:
    """One that begins at 0."""
    return Silence("s", run, kind, "", 0.0, until)


def test_an_alert_is_told_when_it_begins_and_when_it_is_over():
    """And not in between, whatever its numbers do."""
    book = AlertBook()
    book.observe(VIEW, (HANG,), 10.0)
    assert told(book, 10.0) == ["firing"]
    moved = replace(HANG, reason="Another number.")
    book.observe(replace(VIEW, findings=(moved,)), (moved,), 11.0)
    assert told(book, 11.0) == []
    book.observe(CALM, (OVER,), 50.0)
    assert told(book, 50.0) == ["resolved"]
    book.observe(CALM, (OVER,), 51.0)
    assert told(book, 51.0) == []
    assert not book.firing


def test_a_finding_that_an_analyzer_forgot_for_a_while_is_not_over():
    """It is in neither list until agents have sent again what was lost; then it is the same alert."""
    book = AlertBook()
    book.observe(VIEW, (HANG,), 10.0)
    assert told(book, 10.0) == ["firing"]
    book.observe(CALM, (), 20.0)
    assert told(book, 20.0) == []
    book.observe(VIEW, (HANG,), 30.0)
    assert told(book, 30.0 + UNSEEN_SECONDS) == []
    assert told(book, 31.0 + UNSEEN_SECONDS) == ["resolved"]


def test_a_restart_tells_nothing_that_is_known():
    """The same finding again, and one that is over meanwhile."""
    first, second = AlertBook(), AlertBook()
    first.observe(VIEW, (HANG,), 10.0)
    assert told(first, 10.0) == ["firing"]
    second.restore(first.firing.values(), (), 100.0)
    second.observe(VIEW, (HANG,), 101.0)
    assert told(second, 101.0) == []
    second.observe(CALM, (OVER,), 102.0)
    assert told(second, 102.0) == ["resolved"]


def test_a_silenced_alert_is_told_when_the_silence_ends():
    """If it still fires then; one that is over by then was never told, so neither is its end."""
    book = AlertBook(silences={"s": silence(until=100.0)})
    book.observe(VIEW, (HANG,), 10.0)
    assert told(book, 10.0) == []
    assert book.silenced(10.0) == {HANG.id}
    book.observe(VIEW, (HANG,), 100.0)
    assert told(book, 100.0) == ["firing"]
    assert not book.silences
    quiet = AlertBook(silences={"s": silence(until=100.0)})
    quiet.observe(VIEW, (HANG,), 10.0)
    quiet.observe(CALM, (OVER,), 50.0)
    assert told(quiet, 200.0) == []


def test_who_was_told_that_it_fires_is_told_that_it_is_over():
    """A silence that came between does not leave anybody's incident open."""
    book = AlertBook()
    book.observe(VIEW, (HANG,), 10.0)
    assert told(book, 10.0) == ["firing"]
    book.silences["s"] = silence(until=1000.0)
    book.observe(CALM, (OVER,), 50.0)
    assert told(book, 50.0) == ["resolved"]


@pytest.mark.parametrize(
    ("run", "kind", "covers"),
    [
        (RUN, None, True),
        ("team/*", None, True),
        ("team/run:?", "hang", True),
        ("TEAM/*", None, False),
        ("run", None, False),
        (None, "hang", True),
        (None, "straggler", False),
        (RUN, "straggler", False),
    ],
)
def test_a_silence_covers_what_it_names(run, kind, covers):
    """A run by name or pattern, a kind, or both; capitals count."""
    assert silence(run, kind).covers(RUN, "hang") is covers


def test_links_are_quoted():
    """Names of runs may hold slashes and colons, ids a number sign."""
    links = Links("https://a.example.com/sub/", "https://g.example.com/")
    assert links.run(RUN) == "https://a.example.com/sub/runs/team%2Frun%3A1"
    assert links.finding(RUN, HANG.id).endswith("/runs/team%2Frun%3A1/findings/team%2Frun%3A1%23hang%231")
    assert links.dashboard(RUN) == "https://g.example.com/d/stallwatch-run?var-run=team%2Frun%3A1"
    assert links.runbook("hang") == "https://a.example.com/sub/runbooks/hang"
    assert alert_name("lr_too_low") == "TrainingLrTooLow"


def test_detectors_whose_clocks_differ_tell_the_same_event():
    """One clock is behind the analysis, so that the alert would begin in its future."""
    opened = replace(HANG, opened_at=20.0)
    view = replace(VIEW, findings=(opened,))
    events = []
    for now in (15.0, 21.0):
        book = AlertBook()
        book.observe(view, (opened,), now)
        book.pass_time(now)
        events += book.take_changes()[1]
    assert events[0].started_at != events[1].started_at
    assert events[0].id == events[1].id
