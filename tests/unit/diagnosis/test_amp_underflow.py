"""amp_underflow: gradients below what half precision can tell."""

from __future__ import annotations

from support.vitals import first, level, score, stands_alone, vitals

LOST = {"zero_share": level(0.9, 0.02), "gradient_element": 6e-8, "gradient_norm": level(6e-6, 0.5)}


def test_a_scaler_that_was_forgotten():
    """Nine in ten elements are zero, the others at the end of half precision."""
    seen = vitals(zero_row_share=level(0.6, 0.02), live_zero_rows=level(0.6, 0.02), **LOST)
    assert first(seen) == "amp_underflow"
    assert stands_alone("amp_underflow", seen)


def test_a_gradient_that_is_nothing_at_all():
    """Everything underflows: what is left is exactly zero."""
    seen = vitals(
        zero_share=level(1.0, 0.02),
        zero_row_share=level(1.0, 0.02),
        silent_share=level(1.0, 0.0),
        gradient_element=0.0,
        gradient_norm=level(0.0, 0.5),
    )
    assert first(seen) == "amp_underflow"


def test_dead_units_leave_ordinary_elements():
    """As many zeros, and what is not zero is as large as ever."""
    seen = vitals(
        zero_share=level(0.9, 0.02), zero_row_share=level(0.9, 0.02), live_zero_rows=level(0.9, 0.02)
    )
    assert first(seen) == "dead_units"
    assert score("amp_underflow", seen) <= 0


def test_small_gradients_without_zeros_are_none():
    """A large model's elements are small, in single precision or bfloat16."""
    assert score("amp_underflow", vitals(gradient_element=1e-8)) == 0.0


def test_a_loss_scale_in_order_is_none():
    """Elements are small after unscaling; as the backward computed them they are not."""
    seen = vitals(scaling={"loss_scale": 65536.0, "loss_scale_peak": 65536.0}, gradient_element=3e-3)
    assert score("amp_underflow", seen) == 0.0
