"""amp_overflow: the gradient scaler skips step after step."""

from __future__ import annotations

from support.vitals import first, score, stands_alone, vitals


def test_half_of_the_steps_are_skipped():
    """And the loss scale has come down to 4 from 65536."""
    seen = vitals(scaling={"skipped_share": 0.5, "loss_scale": 4.0, "loss_scale_peak": 65536.0})
    assert first(seen) == "amp_overflow"
    assert stands_alone("amp_overflow", seen)


def test_one_try_of_a_larger_scale_is_ordinary():
    """A scaler skips one step in 2000 by design."""
    seen = vitals(scaling={"skipped_share": 1 / 65, "loss_scale": 65536.0, "loss_scale_peak": 131072.0})
    assert score("amp_overflow", seen) <= 0


def test_the_first_halvings_of_a_new_scaler_are_no_finding():
    """It begins at 65536 and finds its level within some steps."""
    seen = vitals(scaling={"skipped_share": 0.06, "loss_scale": 1024.0, "loss_scale_peak": 65536.0})
    assert not stands_alone("amp_overflow", seen)


def test_without_a_loss_scale_it_is_no_invariant():
    """Backward passes without a step may be a method (two backwards a step now and then)."""
    seen = vitals(scaling={"skipped_share": 0.4, "loss_scale": 1.0})
    assert not stands_alone("amp_overflow", seen)
