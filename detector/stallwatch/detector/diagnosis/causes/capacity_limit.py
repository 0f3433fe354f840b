"""The model fits as much as it can, and much of the loss is still there. Benign: the training is in order, the model too small.

Decided like `noise_floor` from gradients that point nowhere any more, steps of ordinary size, an evaluation that is as flat and
as high, and nothing broken; with most of the loss still there. Data that cannot be predicted any better look the same: only a
larger model tells. Not to be confused with `over_regularized` (decay or dropout holds it back), `label_noise` (a part of the
samples is high, or a clean evaluation far lower), `lr_too_low` (the gradient still points somewhere).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import inverse, stopped
from stallwatch.detector.diagnosis.health import flatness, lowest_reached, nothing_broken, progress
from stallwatch.detector.diagnosis.timeline import at_schedule_end
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "capacity_limit"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    if not stopped(vitals):
        return None
    left, rate = progress(vitals), vitals.rate
    evaluation, loss = vitals.evaluation, vitals.loss
    gap = evaluation.level / loss.level if evaluation and loss and loss.level > 0 else float("nan")
    own = (
        Term(
            # Without gradients, faults that keep a loss high look the same.
            ramp(left, 0.35, 0.8, 1.0 if vitals.optimization.alignment.count else 0.4),
            f"{100 * left:.0f} % of the loss is still there",
        ),
        Term(
            -log_ramp(inverse(left), 1.8, 5, 3.5),
            f"the loss is down to {100 * left:.2g} % of where it started",
        ),
        Term(
            -ramp(left, 0.9, 0.98, 4.0),
            f"with {100 * left:.0f} % of the loss still there, nothing has been learnt: that is no limit",
        ),
        Term(
            0.5 * (0.8 < gap < 1.2),
            f"training and evaluation loss are the same ({gap:.2f})",
        ),
        Term(
            3.0 * at_schedule_end(vitals),
            f"the learning rate is at the end of its schedule ({rate.now:.2g}, {100 * rate.ratio:.2g} % of its peak)",
        ),
    )
    shared = flatness(vitals)
    if not any(term.nats > 0 for term in (*shared, *own[3:])):
        return None
    parameters = vitals.declaration.trainable_parameters if vitals.declaration else 0
    best = max((*shared, *own[3:]), key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=(*own, *shared, lowest_reached(vitals), *nothing_broken(vitals)),
        reason=f"The model fits as much as it can: {100 * left:.0f} % of the loss is still there, and {best.text}.",
        advice=(
            f"Give the model more capacity (it trains {parameters:,} parameters), or inputs that tell more."
            if parameters
            else "Give the model more capacity, or inputs that tell more.",
            "Compare with the loss that the data allow (a larger model on a small part of them): if it is the same, this is the end.",
        ),
        experiment="train a model twice as wide for as many steps: a lower plateau says capacity, the same one says the data.",
    )
