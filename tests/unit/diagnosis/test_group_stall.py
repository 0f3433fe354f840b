"""group_stall: one group stays where it started while the others learn."""

from __future__ import annotations

from stallwatch.detector.core.vitals import SeriesVitals
from support.vitals import first, score, stands_alone, vitals, weighed


def group(name: str, now: float, start: float, share: float, slope: float = 0.0) -> SeriesVitals:
    """A group's loss."""
    return SeriesVitals(name, 500, now, start, slope, 0.02, share)


STUCK = (group("text", 0.3, 2.3, 0.75), group("image", 2.2, 2.3, 0.25))


def test_a_group_that_never_began():
    """It is named, with what it costs, and is a finding of its own even while the mean falls."""
    seen = vitals(whole={"groups": STUCK, "loss_start": 2.3})
    assert first(seen) == "group_stall"
    assert "'image'" in weighed("group_stall", seen).reason
    assert stands_alone("group_stall", vitals(loss={"state": "improving"}, whole={"groups": STUCK}))


def test_a_group_that_learns_more_slowly_is_none():
    """It is twice as high, and comes down."""
    slow = (group("text", 0.3, 2.3, 0.75, -0.3), group("image", 0.9, 2.3, 0.25, -0.4))
    assert not stands_alone("group_stall", vitals(whole={"groups": slow}))
    assert score("group_stall", vitals(whole={"groups": slow})) < 2


def test_groups_that_are_alike_are_none():
    """Nothing stands out."""
    even = (group("a", 0.5, 2.3, 0.5), group("b", 0.6, 2.3, 0.5))
    assert score("group_stall", vitals(whole={"groups": even, "loss_start": 2.3})) <= 1


def test_groups_that_have_not_learnt_yet_are_none():
    """At the beginning all are where they started."""
    fresh = (group("a", 2.2, 2.3, 0.5), group("b", 2.3, 2.3, 0.5))
    assert not stands_alone("group_stall", vitals(whole={"groups": fresh}))


def test_a_group_whose_loss_rises_is_for_label_noise():
    """It stands well above where it started, and goes on rising."""
    wrong = (group("a", 0.35, 2.3, 0.8), group("b", 3.6, 2.3, 0.2, 0.3))
    assert not stands_alone("group_stall", vitals(whole={"groups": wrong}))
    assert first(vitals(whole={"groups": wrong})) == "label_noise"


def test_a_group_that_is_harder_and_done_is_none():
    """It stands at three times the others, flat, and has come down by more than half: that is what it costs."""
    harder = (group("a", 0.3, 2.3, 0.75), group("b", 0.9, 2.3, 0.25))
    assert first(vitals(whole={"groups": harder, "loss_start": 2.3})) != "group_stall"
