"""exploding_gradients: the gradient grows by orders at the same learning rate."""

from __future__ import annotations

from support.vitals import first, level, score, stands_alone, vitals

WORSE = {"state": "diverging", "rise": 2.0, "rise_sigma": 15.0}


def test_a_gradient_that_grew_by_orders():
    """A thousand times what it was, and the loss above its best."""
    seen = vitals("SGD", loss=WORSE, gradient_norm=level(800.0, 0.5))
    assert first(seen) == "exploding_gradients"
    assert stands_alone("exploding_gradients", seen)


def test_outbursts_that_come_again():
    """The typical gradient is what it was; every few steps one is fifty times as large."""
    seen = vitals("SGD", gradient_norm=level(0.5, 0.5, peak=60.0), gradient_tail=50.0)
    assert first(seen) == "exploding_gradients"


def test_twice_the_gradient_is_ordinary():
    """Gradients of language models grow slowly over a run."""
    seen = vitals(gradient_norm=level(1.2, 0.5, peak=3.0))
    assert score("exploding_gradients", seen) == 0.0


def test_a_gradient_that_grows_while_the_loss_falls_is_no_finding():
    """Leaving a saddle point takes the gradient up by orders."""
    seen = vitals(loss={"state": "improving"}, gradient_norm=level(100.0, 0.5))
    assert not stands_alone("exploding_gradients", seen)


def test_after_a_raise_of_the_rate_it_is_the_rate():
    """The same growth, from the step at which the rate went up."""
    seen = vitals(
        "SGD",
        loss=WORSE,
        rate={"now": 3e-2, "peak": 3e-2, "raised_at": 490, "raised_from": 1e-3},
        gradient_norm=level(10.0, 0.5),
        update_ratio=level(5e-2, 1e-3),
        alignment_mean=-0.2,
    )
    assert first(seen) == "lr_too_high"
