"""vanishing_gradients: the first layers get next to nothing of what the last ones get."""

from __future__ import annotations

from support.vitals import BLOCKS, first, level, score, stands_alone, vitals, weighed


def test_a_deep_stack_of_sigmoids():
    """Six orders between the last layers and the first."""
    ratios = tuple(10.0 ** (index - 8) for index in range(8))
    seen = vitals("SGD", depth_ratio=level(1e-6), gradient_to_weight=ratios)
    assert first(seen) == "vanishing_gradients"
    assert stands_alone("vanishing_gradients", seen)
    assert weighed("vanishing_gradients", seen).layers[0] == BLOCKS[0]


def test_a_hundredth_is_ordinary():
    """Transformers and residual networks have that."""
    assert score("vanishing_gradients", vitals("SGD", depth_ratio=level(1e-2))) == 0.0


def test_adam_bears_more():
    """Each element's step is scaled to its own gradient: a ten-thousandth is none with Adam."""
    assert score("vanishing_gradients", vitals("Adam", depth_ratio=level(3e-5))) < 1.0
    assert first(vitals("SGD", depth_ratio=level(3e-6))) == "vanishing_gradients"


def test_a_run_that_learns_gets_no_finding():
    """Whatever the depth: what learns has the gradient it needs."""
    seen = vitals("SGD", loss={"state": "improving"}, depth_ratio=level(1e-6))
    assert not stands_alone("vanishing_gradients", seen)


def test_exact_zeros_are_not_vanishing():
    """Half precision that underflows starves the first layers first, and leaves zeros."""
    seen = vitals(
        "Adam",
        depth_ratio=level(1e-7),
        zero_share=level(0.9, 0.02),
        gradient_element=5e-8,
        gradient_norm=level(5e-6, 0.5),
    )
    assert first(seen) == "amp_underflow"
