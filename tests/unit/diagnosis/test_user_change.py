"""user_change: the stall begins where somebody changed something."""

from __future__ import annotations

from stallwatch.detector.core.observations import EventObservation
from stallwatch.detector.core.vitals import LevelShift
from support.vitals import first, level, score, vitals, weighed


def events(*steps: int, kind: str = "augmentation", text: str = "mixup on") -> tuple[EventObservation, ...]:
    """Events at these steps."""
    return tuple(EventObservation(step, kind, text) for step in steps)


JUMP = (LevelShift(500, 0.5, 1.0, 20.0),)


def test_a_change_with_a_jump_of_the_loss():
    """The event, its step, and what the loss did."""
    seen = vitals(whole={"events": events(500), "shifts": JUMP})
    assert first(seen) == "user_change"
    found = weighed("user_change", seen)
    assert "'mixup on' at step 500" in found.reason
    assert found.since_step == 500


def test_a_change_long_before_is_none():
    """The stall begins hundreds of steps later."""
    assert score("user_change", vitals(whole={"events": events(100)})) <= 0


def test_many_events_are_a_coincidence():
    """One every 50 steps: the nearest is always near."""
    one = score("user_change", vitals(whole={"events": events(500)}))
    many = score("user_change", vitals(whole={"events": events(*range(0, 1000, 50))}))
    assert one > 1.0
    assert many < 0


def test_checkpoints_and_rates_are_no_changes():
    """They change nothing, or are judged elsewhere."""
    for kind in ("checkpoint", "lr", "restart"):
        assert score("user_change", vitals(whole={"events": events(500, kind=kind), "shifts": JUMP})) == 0


def test_a_freeze_that_shows_in_the_blocks_comes_first():
    """The change says when, the blocks say what."""
    frozen = {
        "left_share": 0.8,
        "left_blocks": ("a", "b", "c"),
        "left_since": 496,
        "silent_share": level(0.5),
    }
    whole = {"events": events(500, kind="requires_grad", text="1 of 4 parameters requires a gradient")}
    assert first(vitals(whole=whole, **frozen)) == "frozen_parameters"
