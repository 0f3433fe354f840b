"""dead_units: whole rows of zeros, or activations at their limits."""

from __future__ import annotations

from support.vitals import BLOCKS, first, level, score, stands_alone, vitals, weighed


def test_nine_units_in_ten_never_fire():
    """Their rows of the gradient are zero as a whole."""
    seen = vitals(
        zero_share=level(0.9, 0.1),
        zero_row_share=level(0.88, 0.1),
        live_zero_rows=level(0.92, 0.1),
        worst_zero_rows=(BLOCKS[2], 0.99),
    )
    assert first(seen) == "dead_units"
    assert stands_alone("dead_units", seen)
    assert weighed("dead_units", seen).layers == (BLOCKS[2],)


def test_a_third_is_ordinary_for_relu():
    """And has been so all along."""
    seen = vitals(zero_share=level(0.3), zero_row_share=level(0.3), live_zero_rows=level(0.32))
    assert score("dead_units", seen) == 0.0


def test_tanh_at_its_limits():
    """Most outputs of most activations are saturated."""
    seen = vitals(saturated=("layers.1", 0.99), saturated_share=0.95)
    assert first(seen) == "dead_units"
    assert weighed("dead_units", seen).layers == ("layers.1",)


def test_one_saturated_module_is_none():
    """An output sigmoid of a classifier that is sure of itself."""
    assert score("dead_units", vitals(saturated=("output", 0.99), saturated_share=0.2)) == 0.0


def test_units_that_were_killed_by_a_raise_of_the_rate():
    """The rate comes first; that units died is among the first three."""
    seen = vitals(
        loss={"state": "diverging", "rise": 0.6, "rise_sigma": 10.0},
        rate={"now": 3e-2, "peak": 3e-2, "raised_at": 490, "raised_from": 1e-3},
        live_zero_rows=level(0.75, 0.1),
        zero_row_share=level(0.75, 0.1),
        update_ratio=level(3e-2, 1e-3),
        alignment_mean=-0.15,
    )
    assert first(seen) == "lr_too_high"


def test_sparse_units_in_a_small_batch_are_no_finding():
    """Most rows have been empty all along, and the loss falls."""
    sparse = {"zero_share": level(0.9), "zero_row_share": level(0.9), "live_zero_rows": level(0.9)}
    assert not stands_alone("dead_units", vitals(loss={"state": "improving"}, **sparse))
