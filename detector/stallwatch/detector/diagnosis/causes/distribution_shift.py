"""The data changed: the loss jumped at a step where nobody changed anything, or the inputs themselves became others.

Decided from a jump of the loss upwards that stays for a while, without a jump of the learning rate, a restart or an event at
it, and without gradients or weights that blew up; with `input_statistics=True` from a jump of the inputs' mean or deviation at
the same step, which is decisive, or a drift of them. Where neither jumps (labels change meaning slowly), it is not seen. Not to
be confused with `user_change` (somebody said so), `restart_regression`, `exploding_gradients` (weights are thrown far off),
`loss_spike` (it comes back at once).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import LevelShift, Vitals
from stallwatch.detector.diagnosis.timeline import lasting, latest_rise, near_onset
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "distribution_shift"
_AT = 32
"""Steps between two things that happened at once: sampled steps are that far apart."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    rise, jump = latest_rise(vitals), vitals.data.input_jump
    if rise is None and jump is None and math.isnan(_drift(vitals)):
        return None
    step = rise.step if rise is not None else jump.step if jump is not None else -1
    together = rise is not None and jump is not None and abs(jump.step - rise.step) <= _reach(vitals)
    seen, rate = vitals.optimization, vitals.rate
    left = lasting(vitals, rise.before, rise.after) if rise is not None else math.nan
    near = near_onset(vitals, step)
    drift = _drift(vitals)
    relevant = near or left > 0.2
    fresh = vitals.step - step <= max(step - vitals.evidence_from, 2 * _AT)
    thrown = (
        seen.gradient_norm.peak / seen.gradient_norm.reference
        if seen.gradient_norm.reference > 0
        else math.nan
    )
    events = [each for each in vitals.events if abs(each.step - step) <= _AT and step >= 0]
    awoken = [
        each for each in vitals.components if each.alive_since >= 0 and abs(each.alive_since - step) <= _AT
    ]
    restarts = [each for each in vitals.restarts if abs(each.step - step) <= _AT and step >= 0]
    terms = (
        Term(
            3.5 * relevant if rise is not None else 0.0,
            f"the loss jumped from {_number(rise, 'before')} to {_number(rise, 'after')} at step {step:,}, and nothing else happened there",
        ),
        Term(
            ramp(left, 0.2, 0.7, 1.0),
            f"{100 * left:.0f} % of that jump is still there",
        ),
        Term(
            6.0 * (together or (jump is not None and near_onset(vitals, jump.step))),
            f"the inputs became others at step {jump.step if jump else 0:,}: {_number(jump, 'before')} to {_number(jump, 'after')}",
        ),
        Term(
            ramp(drift, 0.2, 0.6, 2.5) if jump is None else 0.0,
            f"the inputs have drifted by {drift:.2g} of their deviation",
        ),
        Term(
            -5.0 * bool(rate.raised_at >= 0 and abs(rate.raised_at - step) <= _AT),
            f"the learning rate was raised at step {rate.raised_at:,}",
        ),
        Term(
            -4.0 * bool(restarts),
            "the job was restarted there",
        ),
        Term(
            -3.0 * bool(events),
            f"'{events[-1].text or events[-1].kind if events else ''}' was logged there",
        ),
        Term(
            -4.0 * bool(awoken),
            f"'{awoken[0].name if awoken else ''}', a term of the loss, came alive there",
        ),
        Term(
            -log_ramp(thrown, 50, 1000, 4.0),
            f"single gradients were up to {thrown:.3g} times what they had been",
        ),
        Term(
            -log_ramp(seen.weight_norm.ratio, 1.6, 4.0, 3.0),
            f"the weights are {seen.weight_norm.ratio:.3g} times as large as they were",
        ),
        Term(
            -log_ramp(seen.gradient_norm.ratio, 8, 100, 3.0),
            f"the gradient is {seen.gradient_norm.ratio:.3g} times what it was",
        ),
        Term(
            -ramp(max(seen.zero_share.now - seen.zero_share.reference, seen.left_share), 0.15, 0.4, 4.0),
            "parts of the model get no gradient any more",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    best = max(terms, key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The data changed: {best.text}.",
        advice=(
            f"Compare the samples before and after step {step:,}: source, order, preprocessing, labels."
            if step >= 0
            else "Compare the samples of now with those of the beginning: source, order, preprocessing, labels.",
            "If the new data are meant to come, mix them with the old ones rather than in sequence, and warm the learning rate up again.",
        ),
        experiment="evaluate the checkpoint from before on samples from before and after: only the latter are worse.",
        decisive=bool(together and fresh and not restarts and not events and not awoken),
        since_step=step,
    )


def _reach(vitals: Vitals) -> float:
    """Steps by which the same moment may be dated differently: samples are a period apart."""
    period = vitals.declaration.sample_period if vitals.declaration else 0
    return max(_AT, 4 * period)


def _drift(vitals: Vitals) -> float:
    """How far the inputs' mean is from where it was, in their deviations; NaN when not known."""
    mean, deviation = vitals.data.input_mean, vitals.data.input_deviation
    if not deviation.reference > 0 or mean.count < 24:
        return math.nan
    return max(abs(mean.now - mean.reference), abs(deviation.now - deviation.reference)) / deviation.reference


def _number(shift: LevelShift | None, name: str) -> str:
    return f"{getattr(shift, name):.4g}" if shift is not None else "?"
