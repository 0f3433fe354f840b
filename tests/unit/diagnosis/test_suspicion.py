"""Verdicts that need a cause: a loss whose fall cannot be told from its noise is a finding where a fault is named besides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stallwatch.detector.checks.slow_convergence import SlowConvergence
from stallwatch.detector.core.learning import LossAssessment, LossForecast
from stallwatch.detector.core.verdicts import Cause, Verdict
from stallwatch.detector.diagnosis import explain
from stallwatch.detector.diagnosis.evidence import stopped
from stallwatch.detector.diagnosis.suspicion import Suspicion
from stallwatch.detector.diagnosis.weighing import Term, Weighing
from support.vitals import assessment, vitals

DOUBTFUL = Verdict(kind="slow_convergence", firing=True, step=900, since_step=300, needs_cause=True)


def named(kind: str, nats: float):
    """Causes of which one has this much evidence."""
    return {kind: lambda _vitals: Weighing(kind, terms=(Term(nats, "seen"),), reason="so")}


@pytest.mark.parametrize(
    ("kind", "nats", "fires"),
    [
        ("lr_too_low", 5.0, True),
        ("lr_too_low", 1.5, False),
        ("noise_floor", 5.0, False),
    ],
)
def test_only_a_fault_that_is_named_makes_it_a_finding(kind, nats, fires):
    """A benign end does not, nor a fault that is one of several."""
    assert explain(DOUBTFUL, vitals(), causes=named(kind, nats)).firing is fires


def test_causes_are_asked_why_it_would_have_stopped():
    """Some say nothing while the loss falls; here whether it does is the question."""

    def once_stopped(seen):
        return Weighing("lr_too_low", terms=(Term(5.0, "seen"),), reason="so") if stopped(seen) else None

    falling = replace(vitals(), loss=assessment(state="improving"))
    assert explain(DOUBTFUL, falling, causes={"lr_too_low": once_stopped}).firing


def test_without_vitals_it_is_nothing():
    """A plateau, which stands by itself, stays what it is."""
    assert not explain(DOUBTFUL, None).firing
    assert explain(replace(DOUBTFUL, needs_cause=False), None).firing


def test_the_same_fault_has_to_be_named_again_and_again():
    """Four looks in a row; another name begins anew."""
    suspicion = Suspicion()
    low = replace(DOUBTFUL, causes=(Cause("lr_too_low", 0.9, ""),))
    high = replace(DOUBTFUL, causes=(Cause("lr_too_high", 0.9, ""),))
    heard = [suspicion.confirm(each).firing for each in (low, low, low, high, high, high, high, high)]
    assert heard == [False] * 6 + [True, True]
    assert suspicion.confirm(replace(DOUBTFUL, needs_cause=False)).firing


def look(step: int, improvement: float, error: float, state: str = "improving") -> LossAssessment:
    """A look at a run of that age, with a forecast and its standard error."""
    forecast = LossForecast(step // 2, improvement, improvement - 1.96 * error, improvement + 1.96 * error)
    return assessment(step=step, state=state, previous_state=state, forecast=forecast)


def test_a_fall_that_cannot_be_told_from_noise_has_to_last():
    """For two fifths of the age, of at least 500 steps; a fall that is seen ends it."""
    check = SlowConvergence()
    verdicts = {step: check.update(look(step, 0.01, 0.05)) for step in range(300, 900, 20)}
    first = next(step for step, verdict in verdicts.items() if verdict is not None)
    assert first == 500
    assert verdicts[first].needs_cause
    assert "cannot be told from nothing" in verdicts[first].reason
    assert not check.update(look(920, 0.2, 0.05)).firing


@pytest.mark.parametrize("state", ["plateau", "oscillating", "diverging"])
def test_what_is_said_otherwise_is_not_said_again(state):
    """A stall that is known has its own finding."""
    check = SlowConvergence()
    assert not any(check.update(look(step, 0.01, 0.05, state)) for step in range(300, 900, 20))
