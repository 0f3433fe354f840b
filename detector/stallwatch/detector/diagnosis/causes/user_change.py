"""The stall begins where somebody changed something: an augmentation, a loss term, a freeze, a schedule.

Decided from events that were logged (`Agent.event`) or noticed (parameters that no longer ask for a gradient) near the onset,
against the probability that one of so many falls there by chance, and from a jump of the loss at it. Changes of the learning
rate are left to the causes that judge it, and restarts to theirs. Says when, not how: a cause that shows in the gradients
comes before it. Not to be confused with `distribution_shift` (nobody said that anything changed).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.observations import EventObservation
from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import stopped
from stallwatch.detector.diagnosis.timeline import change_at_onset, changes, coincidence, lasting
from stallwatch.detector.diagnosis.weighing import Term, Weighing, ramp

KIND = "user_change"
_AT = 8
"""Steps between an event and a jump that it set off: it is logged before the step, and dated to a few."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    found = changes(vitals)
    if not found or not stopped(vitals) or vitals.loss is None:
        return None
    since = vitals.loss.since_step
    event = min(found, key=lambda each: abs(each.step - since))
    same = sum(each.kind == event.kind for each in found)
    chance = coincidence(vitals, len(found))
    near, nats = change_at_onset(vitals)
    jump = next((each for each in vitals.shifts if abs(each.step - event.step) <= _AT), None)
    left = lasting(vitals, jump.before, jump.after) if jump is not None else math.nan
    rate = vitals.rate
    terms = (
        Term(
            nats,
            f"the stall begins within {abs(event.step - since):,} steps of it, which happens by chance in {100 * chance:.2g} % of runs",
        ),
        Term(
            3.0 * (near is not None or left > 0.3) if jump is not None and jump.after > jump.before else 0.0,
            f"the loss jumped from {jump.before if jump else 0:.4g} to {jump.after if jump else 0:.4g} with it",
        ),
        Term(
            ramp(left, 0.3, 0.8, 1.5),
            f"{100 * left:.0f} % of that jump is still there",
        ),
        Term(
            -1.5 * (same > 3),
            f"there were {same} events of that kind",
        ),
        Term(
            -3.0 * bool(rate.since >= 0 and abs(rate.since - event.step) <= _AT),
            f"the learning rate changed with it, from {rate.before:.3g} to {rate.now:.3g}",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The stall begins at a change: {_words(event)} at step {event.step:,}; {_strongest(terms)}.",
        advice=(
            f"Undo it ({_words(event)}), from a checkpoint of before step {event.step:,}, and see whether the loss falls again.",
            "If it is to stay, bring it in over some hundred steps, and judge the loss by its level after the change.",
        ),
        experiment=f"go on from the checkpoint before step {event.step:,} without it, for {_steps(vitals):,} steps: the loss goes on falling.",
        since_step=event.step,
    )


def _words(event: EventObservation) -> str:
    text = event.text.strip().rstrip(".")
    return f"'{text}'" if text else f"'{event.kind}'"


def _strongest(terms: tuple[Term, ...]) -> str:
    return max(terms, key=lambda term: term.nats).text


def _steps(vitals: Vitals) -> int:
    """As many steps as the onset is uncertain by, times four, and 200 at least."""
    error = vitals.loss.since_step_error if vitals.loss is not None else 0.0
    return max(200, round(4 * error))
