"""lr_too_high: steps overshoot, and the loss got worse as the rate went up."""

from __future__ import annotations

from support.vitals import first, level, score, vitals, weighed

RAISED = {"now": 3e-2, "peak": 3e-2, "raised_at": 480, "raised_from": 1e-3}


def test_a_rate_that_was_raised_thirty_times():
    """The loss has not fallen since, and gradients point back."""
    seen = vitals(
        loss={"state": "oscillating", "rise": 0.5, "rise_sigma": 10.0},
        rate=RAISED,
        alignment_mean=-0.2,
        alignment_error=0.03,
        update_ratio=level(3e-2, 1e-3),
    )
    assert first(seen) == "lr_too_high"
    found = weighed("lr_too_high", seen)
    assert found.since_step == 480
    assert "0.001" in found.advice[0]


def test_a_rate_that_was_too_high_from_the_start():
    """No event, but overshoot, weights that grow without end, and a loss that swings."""
    seen = vitals(
        loss={"state": "oscillating"},
        alignment_mean=-0.3,
        alignment_error=0.04,
        update_ratio=level(5e-2),
        weight_norm=level(200.0, 150.0, lowest=20.0),
    )
    assert first(seen) == "lr_too_high"


def test_some_overshoot_at_a_constant_rate_is_ordinary():
    """A healthy run at the edge of stability: slightly negative cosines, ordinary steps."""
    seen = vitals("SGD", alignment_mean=-0.06, alignment_error=0.02, update_ratio=level(3e-3))
    assert score("lr_too_high", seen) < 1.5


def test_a_raise_that_the_loss_made_good_use_of_is_none():
    """The rate went up, and the loss went on falling."""
    seen = vitals(loss={"state": "improving"}, rate=RAISED)
    assert score("lr_too_high", seen) < 1.0


def test_gradients_that_explode_without_a_raise_are_another_thing():
    """The gradient grew a thousandfold at the same rate."""
    seen = vitals(
        loss={"state": "diverging", "rise": 3.0, "rise_sigma": 20.0}, gradient_norm=level(500.0, 0.5)
    )
    assert first(seen) == "exploding_gradients"


def test_units_that_die_of_a_rate_that_was_too_high():
    """The first steps replaced the weights, which have grown since, and units died of it."""
    seen = vitals(
        update_ratio=level(0.006, 0.01, peak=0.58),
        weight_norm=level(660.0, 390.0, lowest=52.0),
        zero_row_share=level(0.74, 0.22),
        live_zero_rows=level(0.74, 0.22),
    )
    assert first(seen) == "lr_too_high"


def test_a_model_that_was_better_before_the_rate_went_up_is_not_at_its_limit():
    """Whatever its gradients look like."""
    before = vitals(loss={"level": 0.6})
    after = vitals(loss={"level": 0.6}, rate={"now": 3e-2, "raised_at": 490, "raised_from": 1e-3})
    assert score("capacity_limit", after) < score("capacity_limit", before) - 3
    assert first(after) == "lr_too_high"
