"""What led to values that are not finite."""

from __future__ import annotations

from dataclasses import replace

from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.diagnosis import explain
from support.vitals import level, vitals

NAN = Verdict(
    kind="non_finite",
    firing=True,
    step=900,
    since_step=900,
    advice=("Go back.", "Look at the batch.", "More."),
)


def test_gradients_that_grew_before_a_nan_come_first():
    """As its cause, and with their advice before that for a bad sample."""
    grown = vitals(
        gradient_norm=level(500.0, 0.5, peak=5e4),
        gradient_tail=40.0,
        loss={"state": "diverging", "rise": 5.0, "rise_sigma": 20.0, "level": 6.0},
    )
    found = explain(NAN, grown)
    assert [each.kind for each in found.causes] == ["exploding_gradients"]
    assert found.advice[0].startswith("Clip")
    assert found.advice[1:] == NAN.advice[:2]


def test_a_nan_out_of_nowhere_has_no_cause():
    """One bad sample in a healthy run; and a log without gradients."""
    assert explain(NAN, vitals()) == NAN
    assert explain(NAN, None) == NAN


def test_the_end_of_it_is_left_alone():
    """It is over."""
    over = replace(NAN, firing=False)
    assert explain(over, vitals()) == over
