"""distribution_shift: the loss jumps, and nobody changed anything; or the inputs are others."""

from __future__ import annotations

from stallwatch.detector.core.observations import EventObservation
from stallwatch.detector.core.vitals import DataVitals, LevelShift, Restart
from support.vitals import first, level, score, stands_alone, vitals

JUMP = (LevelShift(500, 0.5, 1.1, 20.0),)
INPUTS = DataVitals(input_jump=LevelShift(504, 0.0, 1.5, 40.0))


def test_a_jump_that_nothing_explains():
    """The loss went up at a step at which nothing else happened."""
    assert first(vitals(whole={"shifts": JUMP})) == "distribution_shift"


def test_inputs_that_jump_with_it_decide():
    """Known at once, whatever the loss does afterwards."""
    seen = vitals(loss={"state": "improving", "level": 0.6}, whole={"shifts": JUMP, "data": INPUTS})
    assert stands_alone("distribution_shift", seen)
    assert not stands_alone("distribution_shift", vitals(whole={"shifts": JUMP}))


def test_an_event_at_it_is_a_change():
    """Somebody said so."""
    told = (EventObservation(500, "augmentation", "mixup on"),)
    assert first(vitals(whole={"shifts": JUMP, "events": told})) == "user_change"
    assert not stands_alone(
        "distribution_shift", vitals(whole={"shifts": JUMP, "data": INPUTS, "events": told})
    )


def test_a_raised_rate_at_it_is_the_rates():
    """The learning rate went up at that step."""
    rate = {"now": 1e-2, "peak": 1e-2, "since": 500, "before": 1e-3, "raised_at": 500, "raised_from": 1e-3}
    assert first(vitals(rate=rate, whole={"shifts": JUMP})) == "lr_too_high"


def test_a_restart_at_it_is_the_restarts():
    """The job began anew there."""
    restart = Restart(500, 1, 1, 0.5, 1.1, 0.03, 500, 500, 0.5, 499, 5.0)
    assert first(vitals(whole={"shifts": JUMP, "restarts": (restart,)})) == "restart_regression"


def test_weights_that_were_thrown_off_are_no_data():
    """A single gradient was thousands of times as large as any before."""
    thrown = {"gradient_norm": level(5.0, 0.5, peak=2e3), "weight_norm": level(60.0, 20.0)}
    assert score("distribution_shift", vitals(whole={"shifts": JUMP}, **thrown)) < 0


def test_a_jump_that_is_over_is_not_why_it_is_flat_now():
    """It came long before the onset, and nothing of it is left."""
    over = (LevelShift(100, 1.5, 3.0, 20.0),)
    assert score("distribution_shift", vitals(whole={"shifts": over})) == 0
