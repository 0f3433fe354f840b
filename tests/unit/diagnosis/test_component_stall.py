"""component_stall: one term of the loss stays up while the others fall."""

from __future__ import annotations

from dataclasses import replace

from stallwatch.detector.core.vitals import LevelShift, SeriesVitals
from support.vitals import first, score, stands_alone, vitals, weighed


def term(name: str, now: float, start: float, share: float, slope: float = 0.0) -> SeriesVitals:
    """A term of the loss."""
    return SeriesVitals(name, 500, now, start, slope, 0.02, share)


STUCK = (term("position", 0.1, 1.0, 0.1), term("velocity", 0.95, 1.0, 0.9))


def test_a_term_that_never_learnt():
    """It is most of what is left of the loss."""
    seen = vitals(whole={"components": STUCK})
    assert first(seen) == "component_stall"
    assert "'velocity'" in weighed("component_stall", seen).reason
    assert stands_alone("component_stall", seen)


def test_not_while_the_sum_still_falls():
    """Terms are traded for each other; as long as the sum falls, that is in order."""
    traded = (term("reconstruction", 0.5, 1.0, 0.7, -0.3), term("divergence", 0.2, 0.01, 0.3, 0.4))
    falling = vitals(loss={"state": "improving"}, whole={"components": traded})
    assert score("component_stall", falling) == 0


def test_a_term_that_came_alive_at_the_onset():
    """It was zero, and is the reason of the jump, which no data made."""
    alive = replace(term("penalty", 0.6, 0.0, 0.6), alive_since=500)
    jump = (LevelShift(500, 0.4, 1.0, 20.0),)
    seen = vitals(whole={"components": (term("task", 0.4, 1.0, 0.4), alive), "shifts": jump})
    assert first(seen) == "component_stall"
    assert "came alive" in weighed("component_stall", seen).reason


def test_terms_that_have_all_come_down_are_none():
    """What is left is what it is."""
    even = (term("a", 0.1, 1.0, 0.5), term("b", 0.12, 1.0, 0.5))
    assert score("component_stall", vitals(whole={"components": even})) <= 0
