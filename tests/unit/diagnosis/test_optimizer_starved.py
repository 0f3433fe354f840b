"""optimizer_starved: Adam's memory of large gradients makes steps tiny."""

from __future__ import annotations

from support.vitals import first, level, score, stands_alone, vitals

SHORT = {"alignment_mean": 0.2, "alignment_error": 0.03, "update_ratio": level(1e-5, 1e-3)}


def test_second_moments_that_remember_a_spike():
    """Steps are a thousandth of the rate, at the gradients and the rate of before."""
    seen = vitals(effective_step=level(5e-4, 0.25), gradient_norm=level(0.5, 0.5, peak=5e4), **SHORT)
    assert first(seen) == "optimizer_starved"


def test_starved_since_before_anybody_looked():
    """No better past to compare with: steps of a thousandth of the rate are none of Adam's."""
    seen = vitals(effective_step=level(5e-4), **SHORT)
    assert first(seen) == "optimizer_starved"


def test_steps_where_all_is_noise_are_ordinary():
    """Adam's steps fall from 1 to a fifth as gradients come to be noise."""
    assert score("optimizer_starved", vitals(effective_step=level(0.2, 0.4))) == 0.0


def test_a_rate_that_was_cut_is_not_starving():
    """In units of the rate, steps are what they were."""
    seen = vitals(rate={"now": 1e-6, "peak": 1e-3, "since": 480, "before": 1e-3}, **SHORT)
    assert first(seen) == "lr_too_low"
    assert score("optimizer_starved", seen) == 0.0


def test_sgd_has_nothing_to_starve_of():
    """Its steps follow the gradient, whatever that is."""
    assert score("optimizer_starved", vitals("SGD", effective_step=level(1e-5, 1e-2), **SHORT)) == 0.0


def test_steps_that_are_rounded_away_are_not_the_optimizers_doing():
    """At a billionth of the learning rate hardly anything of a step arrives, whatever the optimizer meant."""
    seen = vitals(
        effective_step=level(0.008, 0.69),
        update_ratio=level(1e-11, 1e-3),
        rate={"now": 1e-12, "peak": 1e-3, "since": 500, "before": 1e-3, "low_since": 500},
    )
    assert first(seen) == "lr_too_low"
    assert not stands_alone("optimizer_starved", seen)
