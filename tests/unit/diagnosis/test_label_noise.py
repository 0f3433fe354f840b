"""label_noise: a minority gets worse as the rest fits, or training is far above a clean evaluation."""

from __future__ import annotations

from stallwatch.detector.core.vitals import SeriesVitals
from support.vitals import first, level, score, vitals, weighed


def group(name: str, now: float, start: float, share: float, slope: float = 0.0) -> SeriesVitals:
    """A group's loss."""
    return SeriesVitals(name, 500, now, start, slope, 0.02, share)


WRONG = (group("a", 0.35, 2.3, 0.8), group("b", 3.6, 2.3, 0.2, 0.3))


def test_a_group_that_gets_worse_while_the_rest_fits():
    """A model that is sure of itself is surely wrong about wrong labels."""
    seen = vitals(whole={"groups": WRONG, "loss_start": 2.3})
    assert first(seen) == "label_noise"
    assert "'b'" in weighed("label_noise", seen).reason


def test_a_group_that_stays_where_it_was_has_stalled():
    """It never began: nothing says that its labels are wrong."""
    stalled = (group("a", 0.35, 2.3, 0.8), group("b", 2.3, 2.3, 0.2))
    assert first(vitals(whole={"groups": stalled, "loss_start": 2.3})) == "group_stall"


def test_a_rare_class_rises_to_what_its_rarity_costs():
    """2 % of the samples cost 3.9 when only how often they come is learnt: no wrong labels."""
    rare = (group("a", 0.05, 0.7, 0.98), group("b", 3.8, 0.7, 0.02))
    assert first(vitals(whole={"groups": rare, "loss_start": 0.7})) == "group_stall"


def test_a_clean_evaluation_far_below_training():
    """Labels of training are harder than right ones."""
    clean = SeriesVitals("evaluation loss", 64, 0.3, 2.3, 0.0, 0.02)
    seen = vitals(whole={"evaluation": clean, "loss_start": 2.3})
    assert first(seen) == "label_noise"
    assert (
        first(vitals(decay_share=level(0.6), whole={"evaluation": clean, "loss_start": 2.3})) != "label_noise"
    )


def test_the_gap_that_dropout_makes_is_none():
    """Training loss a fifth above evaluation."""
    dropout = SeriesVitals("evaluation loss", 64, 0.83, 2.3, 0.0, 0.02)
    assert score("label_noise", vitals(whole={"evaluation": dropout, "loss_start": 2.3})) <= 0
