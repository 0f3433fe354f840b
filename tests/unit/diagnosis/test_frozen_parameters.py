"""frozen_parameters: what was trained is trained no longer."""

from __future__ import annotations

from stallwatch.detector.core.observations import EventObservation
from support.vitals import BLOCKS, first, level, score, stands_alone, vitals, weighed


def test_three_quarters_frozen_by_their_flag():
    """At a step at which the agent saw requires_grad change."""
    event = EventObservation(
        496, "requires_grad", "2 parameters require a gradient, 8 did before", automatic=True
    )
    seen = vitals(left_blocks=BLOCKS[:6], left_share=0.75, left_since=496, whole={"events": (event,)})
    assert first(seen) == "frozen_parameters"
    assert stands_alone("frozen_parameters", seen)
    found = weighed("frozen_parameters", seen)
    assert found.since_step == 496
    assert found.layers == BLOCKS[:6]


def test_a_part_that_is_cut_off_from_the_gradient():
    """detach() in the forward: no flag changed, and exactly nothing comes."""
    seen = vitals(
        left_blocks=BLOCKS[:6],
        left_share=0.75,
        left_since=504,
        silent_share=level(0.75, 0.0),
        zero_share=level(1.0, 0.02),
        zero_row_share=level(0.75, 0.02),
    )
    assert first(seen) == "frozen_parameters"


def test_one_block_of_eight_is_no_finding():
    """A head that is not used for a while."""
    seen = vitals(left_blocks=BLOCKS[:1], left_share=0.125, left_since=504)
    assert not stands_alone("frozen_parameters", seen)


def test_what_never_moved_is_not_frozen():
    """Frozen before the run began, or never used."""
    assert score("frozen_parameters", vitals(still_blocks=BLOCKS[:6], still_share=0.75)) == 0.0


def test_a_network_that_died_is_not_frozen():
    """No matrix gets a gradient any more, for no unit fires."""
    seen = vitals(
        left_blocks=BLOCKS,
        left_share=1.0,
        left_since=504,
        silent_share=level(1.0, 0.0),
        zero_share=level(1.0, 0.02),
        zero_row_share=level(1.0, 0.02),
    )
    assert first(seen) == "dead_units"


def test_a_freeze_that_was_meant_to_be_is_no_finding_while_the_loss_falls():
    """Fine-tuning freezes the backbone at a step, by its flag."""
    event = EventObservation(
        496, "requires_grad", "2 parameters require a gradient, 8 did before", automatic=True
    )
    told = {"left_blocks": BLOCKS[:6], "left_share": 0.75, "left_since": 496, "whole": {"events": (event,)}}
    assert not stands_alone("frozen_parameters", vitals(loss={"state": "improving"}, **told))
    assert stands_alone("frozen_parameters", vitals(**told))


def test_blocks_that_half_precision_rounds_to_nothing_are_not_frozen():
    """All of a block's elements are below its smallest number, and the typical one of the model is near it."""
    seen = vitals(
        left_blocks=BLOCKS[:6],
        left_share=0.75,
        left_since=504,
        silent_share=level(0.75, 0.0),
        zero_share=level(1.0, 0.02),
        gradient_element=4e-8,
    )
    assert first(seen) == "amp_underflow"
    assert not stands_alone("frozen_parameters", seen)


def test_blocks_that_died_of_a_burst_are_not_frozen():
    """A gradient a thousand times as large as usual threw the weights so far that no unit behind them fires."""
    seen = vitals(
        left_blocks=BLOCKS[:5],
        left_share=0.625,
        left_since=504,
        gradient_norm=level(0.5, 0.5, peak=500.0),
    )
    assert not stands_alone("frozen_parameters", seen)


def test_steps_that_are_rounded_away_freeze_nothing():
    """A learning rate of a billionth of its peak moves no weight, though all of them get their gradients."""
    seen = vitals(
        left_blocks=BLOCKS,
        left_share=1.0,
        left_since=504,
        still_blocks=BLOCKS,
        still_share=1.0,
        still_with_gradient=BLOCKS,
        update_ratio=level(1e-12, 1e-3),
        rate={"now": 1e-12, "peak": 1e-3, "since": 500, "before": 1e-3, "low_since": 500},
    )
    assert not stands_alone("frozen_parameters", seen)
    assert first(seen) == "lr_too_low"
