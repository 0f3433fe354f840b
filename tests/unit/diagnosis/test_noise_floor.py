"""noise_floor: the gradient points nowhere any more, most of the loss is gone, and nothing is broken."""

from __future__ import annotations

import math

import pytest

from stallwatch.detector.core.observations import EventObservation
from stallwatch.detector.core.vitals import Level, LevelShift, SeriesVitals
from stallwatch.detector.diagnosis.ranking import is_benign
from support.vitals import first, level, noise, ranked, score, vitals, weighed

DONE = {"loss_start": 5.0}
UNKNOWN = {name: Level() for name in ("gradient_norm", "weight_norm", "update_ratio", "alignment")}


def series(level: float, start: float, slope: float = 0.0, name: str = "evaluation loss") -> SeriesVitals:
    """A series that is flat unless told otherwise."""
    return SeriesVitals(name, 64, level, start, slope, 0.02)


def test_a_converged_run_is_done():
    """Flat, without direction, at a fifth of where it started: benign, and sure of it."""
    seen = vitals(whole=DONE)
    assert first(seen) == "noise_floor"
    assert "neither too long nor too short" in weighed("noise_floor", seen).reason


def test_ranks_that_agree_like_noise_support_it():
    """Four ranks whose gradients agree to a quarter: what noise does."""
    alone = score("noise_floor", vitals(whole=DONE))
    assert score("noise_floor", vitals(whole={**DONE, "noise": noise(200.0)})) > alone
    agreeing = {**DONE, "noise": noise(2.0, agreement=0.9)}
    assert score("noise_floor", vitals(whole=agreeing)) < alone


def test_near_perfect_accuracy_is_done():
    """At 99.6 % there is nothing left to learn, though the gradient of a cross entropy never quite vanishes."""
    done = {"loss_start": 2.3, "metrics": (series(0.996, 0.1, name="accuracy"),)}
    seen = vitals(loss={"level": 0.012}, alignment_mean=0.05, alignment_error=0.03, whole=done)
    assert first(seen) == "noise_floor"
    percent = {"loss_start": 2.3, "metrics": (series(99.6, 10.0, name="val_acc"),)}
    assert first(vitals(loss={"level": 0.012}, whole=percent)) == "noise_floor"


def test_the_end_of_a_schedule_is_benign_though_the_gradient_points_along():
    """At the end of a cosine steps are tiny, and so the gradient keeps its direction: as planned."""
    rate = {"now": 1e-6, "peak": 1e-3, "falling": True, "low_since": 850}
    seen = vitals(
        rate=rate,
        alignment_mean=0.3,
        alignment_error=0.04,
        update_ratio=level(1e-6, 1e-3),
        loss={"since_step": 880},
        whole=DONE,
    )
    assert first(seen) == "noise_floor"
    early = {**rate, "low_since": 300}
    seen = vitals(
        rate=early, alignment_mean=0.3, alignment_error=0.04, update_ratio=level(1e-6, 1e-3), whole=DONE
    )
    assert first(seen) == "lr_too_low"


def test_a_log_without_gradients_says_so_at_the_end_of_its_schedule_only():
    """Loss, rate and evaluation: a rate at its planned end decides, a flat loss at a living rate does not."""
    unknown = {**UNKNOWN, "alignment_mean": math.nan, "alignment_error": math.nan}
    ended = {"now": 1e-6, "peak": 1e-3, "falling": True, "low_since": 850}
    whole = {**DONE, "evaluation": series(1.1, 5.0)}
    assert first(vitals(rate=ended, whole=whole, **unknown)) == "noise_floor"
    assert first(vitals(whole=whole, **unknown)) == ""


def test_a_gradient_that_points_along_the_steps_is_no_noise():
    """There is something to gain yet."""
    assert score("noise_floor", vitals(alignment_mean=0.3, alignment_error=0.03, whole=DONE)) < 0


@pytest.mark.parametrize(
    "broken",
    [
        {"left_share": 0.5, "left_blocks": ("a", "b")},
        {"zero_share": level(0.8, 0.02)},
        {"depth_ratio": level(1e-6)},
        {"gradient_norm": level(1e-6, 1.0)},
        {"decay_share": level(0.7)},
        {"scaling": {"skipped_share": 0.5}},
        {"loss": {"rise": 0.5, "rise_sigma": 20.0}},
        {"effective_step": level(1e-3, 0.2)},
    ],
)
def test_what_is_broken_is_never_called_done(broken):
    """Each of these takes the lead from every benign cause."""
    kind = first(vitals(whole=DONE, **broken))
    assert not kind or not is_benign(kind)


def test_what_happened_at_the_onset_speaks_against_it():
    """A change or a jump of the loss where the stall begins is no end of learning."""
    plain = score("noise_floor", vitals(whole=DONE))
    event = (EventObservation(500, "augmentation", "mixup on"),)
    assert score("noise_floor", vitals(whole={**DONE, "events": event})) < plain - 1
    jump = (LevelShift(500, 0.5, 1.0, 20.0),)
    assert score("noise_floor", vitals(whole={**DONE, "shifts": jump})) < plain - 2


def test_a_loss_that_still_falls_has_no_floor():
    """Only what has stopped is judged."""
    assert score("noise_floor", vitals(loss={"state": "improving"}, whole=DONE)) == 0
    assert ranked(vitals(loss={"state": "improving"}, whole=DONE)) == []
