"""capacity_limit: like the noise floor, with much of the loss still there."""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Level, SeriesVitals
from support.vitals import first, level, ranked, score, vitals, weighed

HIGH = {"loss_start": 1.5, "evaluation": SeriesVitals("evaluation loss", 64, 1.02, 1.5, 0.0, 0.02)}


def test_flat_and_high_without_direction():
    """Two thirds of the loss are still there, training and evaluation alike, and the gradient points nowhere."""
    seen = vitals(whole=HIGH)
    assert first(seen) == "capacity_limit"
    found = weighed("capacity_limit", seen)
    assert "67 %" in found.reason
    assert "10,000 parameters" in found.advice[0]


def test_with_most_of_the_loss_gone_it_is_the_floor():
    """A tenth is left: the model fits."""
    assert first(vitals(whole={**HIGH, "loss_start": 10.0})) == "noise_floor"


def test_a_run_that_has_learnt_nothing_is_no_limit():
    """All of the loss is still there: something is broken, whatever it is."""
    kinds = [
        each.weighing.kind for each in ranked(vitals(whole={"loss_start": 1.0})) if each.confidence > 0.6
    ]
    assert kinds == []


def test_it_is_not_claimed_from_logs_alone():
    """Without gradients, whatever holds the loss up looks the same."""
    unknown = {name: Level() for name in ("gradient_norm", "weight_norm", "update_ratio", "alignment")}
    seen = vitals(alignment_mean=math.nan, alignment_error=math.nan, whole=HIGH, **unknown)
    assert first(seen) == ""


def test_regularisation_that_holds_it_back_comes_first():
    """The pull of weight decay is two thirds of every step."""
    assert first(vitals(decay_share=level(0.65), whole=HIGH)) == "over_regularized"


def test_a_low_evaluation_is_no_limit():
    """The model can do better than the training loss says."""
    low = SeriesVitals("evaluation loss", 64, 0.3, 1.5, 0.0, 0.02)
    assert score("capacity_limit", vitals(whole={**HIGH, "evaluation": low})) < 1
