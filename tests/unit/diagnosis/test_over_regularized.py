"""over_regularized: decay pulls as hard as the gradient pushes."""

from __future__ import annotations

from stallwatch.detector.core.vitals import SeriesVitals
from support.vitals import first, level, score, vitals

SHRUNK = {"weight_norm": level(8.0, 20.0), "decay_share": level(0.6, 0.4)}


def test_weight_decay_that_outweighs_the_loss():
    """Weights shrink, the loss rises, and decay is most of each step."""
    assert first(vitals(loss={"rise": 0.2, "rise_sigma": 10.0}, **SHRUNK)) == "over_regularized"


def test_weights_that_decayed_away_take_everything_with_them():
    """Gradients vanish, units die and blocks stop in a model whose weights are nearly zero: the decay did it."""
    seen = vitals(
        loss={"rise": 0.5, "rise_sigma": 10.0},
        weight_norm=level(0.02, 4.0, peak=20.0),
        decay_share=level(0.8, 0.9),
        depth_ratio=level(1e-12),
        live_zero_rows=level(0.95, 0.02),
        silent_share=level(1.0, 0.0),
        zero_row_share=level(1.0, 0.02),
    )
    assert first(seen) == "over_regularized"


def test_dropout_shows_in_the_evaluation():
    """The loss without dropout is half of that with it."""
    evaluation = SeriesVitals("evaluation loss", 40, 0.5, 1.5, 0.0, 0.02)
    assert first(vitals(whole={"evaluation": evaluation}, alignment_mean=0.0, agreement=level(0.1))) in (
        "",
        "over_regularized",
    )
    assert score("over_regularized", vitals(whole={"evaluation": evaluation})) > 2


def test_an_ordinary_decay_is_none():
    """A hundredth of the step, in balance."""
    assert score("over_regularized", vitals()) <= 0
