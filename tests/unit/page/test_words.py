"""Numbers and times as text, addresses, small curves and the tables of evidence."""

from __future__ import annotations

import math

import pytest

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.http.page import addresses, words
from stallwatch.detector.http.page.curve import curve_svg, path
from stallwatch.detector.http.page.evidence import evidence
from stallwatch.detector.http.query import Target


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (1234567, "1,234,567"),
        (3.14159, "3.142"),
        (1e-9, "1e-9"),
        (-9.42e-7, "-9.42e-7"),
        (math.inf, "inf"),
    ],
)
def test_numbers(value, text):
    """With the digits that matter."""
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (0.0123, "12.3 ms"),
        (1.5, "1.5 s"),
        (200, "3.33 min"),
        (7200, "2 h"),
        (math.nan, "-"),
    ],
)
def test_durations(value, text):
    """In the unit that suits them."""
    assert words.seconds(value) == text


def test_ranks_are_folded_into_ranges():
    """As many as fit."""
    assert words.ranks((0, 1, 2, 3, 7)) == "0-3, 7"
    assert words.ranks(tuple(range(0, 40, 2)), most=2) == "0, 2 and 18 more"


@pytest.mark.parametrize("run", ["a", "team/run:1", "a/ranks/0", "x/findings", "a.b-c_d/loss.svg"])
def test_an_address_leads_back_to_its_run(run):
    """Whatever the name holds."""
    assert addresses.parse(addresses.run_address(run).removeprefix("/runs")) == Target(run)
    finding = addresses.finding_address(run, f"{run}#hang#1").removeprefix("/runs")
    assert addresses.parse(finding) == Target(run, "findings", f"{run}#hang#1")
    assert addresses.parse(addresses.rank_address(run, 7).removeprefix("/runs")) == Target(run, "ranks", "7")


def test_a_curve_is_stretched_over_its_picture():
    """From corner to corner; values that span decades on a logarithmic scale."""
    points = [SeriesPoint(0, 100.0, 1), SeriesPoint(5, 10.0, 1), SeriesPoint(10, 1.0, 1)]
    assert path(points, 104, 24) == "M2.0,2.0L52.0,12.0L102.0,22.0"
    assert "<path" not in curve_svg(points[:1])
    assert "<path" not in curve_svg([SeriesPoint(0, math.nan, 1)] * 3)


def test_lists_of_the_same_length_share_a_table():
    """Long ones are cut, and say so."""
    shown = evidence(
        {"ranks": tuple(range(100)), "loss_seconds": (0.001,) * 100, "other": (1, 2), "one": (3,)}
    )
    first, second = shown.tables
    assert first.header == ("ranks", "loss")
    assert first.rows[1] == ("1", "1 ms")
    assert (len(first.rows), first.left_out) == (64, 36)
    assert second.rows == (("1",), ("2",))
    assert shown.values == (("one", "3"),)


def test_what_speaks_for_and_against_causes_has_their_names():
    """Each in a table of its own, also where two have as many lines."""
    given = {"cause_1_evidence": ("+3.0 a", "-1.0 b"), "cause_2_evidence": ("+1.0 c", "+0.5 d")}
    first, second = evidence(given, ["lr_too_low", "noise_floor"]).tables
    assert first.header == ("for and against lr too low",)
    assert first.rows == (("+3.0 a",), ("-1.0 b",))
    assert second.header == ("for and against noise floor",)
