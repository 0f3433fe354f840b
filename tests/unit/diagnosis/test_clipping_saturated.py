"""clipping_saturated: clipping takes nearly all of the gradient."""

from __future__ import annotations

from support.vitals import first, level, score, stands_alone, vitals, weighed

TIGHT = {"clipped_share": 1.0, "clip_factor": 0.005}
SHORT = {"alignment_mean": 0.3, "alignment_error": 0.04, "update_ratio": level(1e-5, 1e-3)}


def test_a_norm_that_is_a_two_hundredth_of_the_gradients():
    """Every step is shortened to half a per cent, with SGD."""
    seen = vitals("SGD", scaling=TIGHT, **SHORT)
    assert first(seen) == "clipping_saturated"
    assert stands_alone("clipping_saturated", seen)
    assert "0.0025 to about 1" in weighed("clipping_saturated", seen).advice[0]


def test_clipping_every_step_to_half_is_common_practice():
    """Language models are trained so."""
    seen = vitals("SGD", scaling={"clipped_share": 1.0, "clip_factor": 0.5})
    assert score("clipping_saturated", seen) < 1.5
    assert not stands_alone("clipping_saturated", seen)


def test_adam_undoes_a_constant_factor():
    """The gradient's scale is divided out."""
    seen = vitals("AdamW", scaling=TIGHT)
    assert first(seen) != "clipping_saturated"
    assert score("clipping_saturated", seen) < 0


def test_a_loss_that_falls_gets_no_finding():
    """Normalised gradients with a rate to match are a method."""
    seen = vitals("SGD", loss={"state": "improving"}, scaling=TIGHT, update_ratio=level(5e-4))
    assert not stands_alone("clipping_saturated", seen)


def test_without_clipping_there_is_nothing_to_weigh():
    """No step was clipped."""
    assert score("clipping_saturated", vitals("SGD", **SHORT)) == 0.0
