"""data_shortfall: the same inputs come again before the epoch is over."""

from __future__ import annotations

from stallwatch.detector.core.vitals import DataVitals
from support.vitals import score, stands_alone, vitals, weighed


def data(**changes: float) -> dict[str, DataVitals]:
    """What is known of the samples, at 100 steps an epoch."""
    known = {"epoch_steps": 100.0, "distinct_share": 1.0, "steps_seen": 500, **changes}
    return {"data": DataVitals(**known)}


def test_a_fifth_of_the_data_again_and_again():
    """Every 20 steps, where an epoch has 100."""
    seen = vitals(whole=data(period_steps=20.0, distinct_share=0.2))
    assert stands_alone("data_shortfall", seen)
    assert "after 20 steps, and an epoch has 100" in weighed("data_shortfall", seen).reason


def test_whole_epochs_are_in_order():
    """Repeated order is another finding, and a dropped last batch is none."""
    assert score("data_shortfall", vitals(whole=data(period_steps=100.0))) == 0
    assert not stands_alone("data_shortfall", vitals(whole=data(period_steps=94.0)))


def test_nothing_is_said_without_a_declared_size():
    """Nobody knows how long an epoch is."""
    assert score("data_shortfall", vitals(whole={"data": DataVitals(period_steps=20.0, steps_seen=500)})) == 0


def test_fresh_inputs_are_in_order():
    """Nothing has come again yet."""
    assert score("data_shortfall", vitals(whole=data())) == 0
