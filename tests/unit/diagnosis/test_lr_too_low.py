"""lr_too_low: the gradient still points along steps that are short."""

from __future__ import annotations

from support.vitals import first, level, score, vitals, weighed

SHORT = {"alignment_mean": 0.3, "alignment_error": 0.04, "update_ratio": level(1e-5, 1e-3)}
CUT = {"now": 1e-6, "peak": 1e-3, "since": 480, "before": 1e-3}


def test_a_rate_that_was_cut_too_early():
    """Tiny steps, a rate far below its peak, and a gradient that still points along the steps."""
    seen = vitals(rate=CUT, **SHORT)
    assert first(seen) == "lr_too_low"
    found = weighed("lr_too_low", seen)
    assert "0.001" in found.advice[0]
    assert found.since_step == 480


def test_a_rate_that_was_low_from_the_start():
    """Without any peak above it, the direction of the gradient says it."""
    seen = vitals("SGD", rate={"now": 1e-6, "peak": 1e-6}, **SHORT)
    assert first(seen) == "lr_too_low"


def test_the_end_of_a_schedule_is_none():
    """A rate of next to nothing at the end of a cosine: the gradient no longer points along the steps."""
    seen = vitals(rate=CUT, total_steps=1000, update_ratio=level(1e-6, 1e-3))
    assert score("lr_too_low", seen) < 1.0


def test_short_steps_that_clipping_makes_are_not_the_rates():
    """With SGD, clipping to a hundredth shortens every step: the rate is what it was."""
    seen = vitals("SGD", scaling={"clipped_share": 1.0, "clip_factor": 0.01}, **SHORT)
    assert first(seen) == "clipping_saturated"


def test_a_starved_optimizer_is_none():
    """The rate is at its peak, and Adam makes a thousandth of a step out of it."""
    seen = vitals(effective_step=level(3e-4, 0.25), **SHORT)
    assert first(seen) == "optimizer_starved"


def test_unknown_vitals_say_nothing():
    """From a log without gradients, a low rate alone names no cause."""
    seen = vitals(alignment_mean=float("nan"), alignment_error=float("nan"), update_ratio=level(float("nan")))
    assert score("lr_too_low", seen) == 0.0
