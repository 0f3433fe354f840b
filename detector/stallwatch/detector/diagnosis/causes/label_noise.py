"""A part of the labels is wrong: a minority of the samples keeps a high loss that no training takes away.

Decided from a minority group whose loss has risen above where it started while the rest fits, for a model that learns the
right labels gets surer and so worse on wrong ones; or from a training loss that is flat, far above the loss of a (clean)
evaluation, and not so for reasons of weight decay. Without groups and without a clean evaluation it cannot be told from
`capacity_limit`. Not to be confused with `group_stall` (the group stays where it started) and `over_regularized` (dropout and
augmentation make a smaller difference, and decay shows).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.causes.group_stall import level_of_others, outstanding, rarity
from stallwatch.detector.diagnosis.evidence import stopped
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "label_noise"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    if not stopped(vitals):
        return None
    seen, loss, evaluation = vitals.optimization, vitals.loss, vitals.evaluation
    group = outstanding(vitals)
    if group is not None and not group.share < 0.5:
        group = None
    name, level, start, share = (
        (group.name, group.level, group.start, group.share) if group else ("", math.nan, math.nan, math.nan)
    )
    others = level_of_others(vitals, group) if group else math.nan
    rose, rare = level / start, rarity(group) if group else math.nan
    gap = loss.level / evaluation.level if evaluation and loss and evaluation.level > 0 else math.nan
    flat = abs(seen.alignment_mean) <= max(0.08, 2 * seen.alignment_error)
    left = loss.level / vitals.loss_start if loss and vitals.loss_start > 0 else math.nan
    terms = (
        Term(
            # Samples of which nothing can be learnt stay at what their classes' shares allow, at most where they started.
            log_ramp(rose, 1.03, 1.2, 4.5) * (others < 0.8 * level),
            f"the loss of '{name}' has risen to {rose:.2f} times where it started, {level:.4g}, while that of the others is {others:.4g}",
        ),
        Term(
            log_ramp(level / others, 1.5, 4.0, 1.5),
            f"it is {level / others:.3g} times that of the others",
        ),
        Term(
            -3.0 * bool(level < 1.3 * rare),
            f"a group of {100 * share:.0f} % costs {rare:.3g} if only its rarity is learnt",
        ),
        Term(
            log_ramp(gap, 1.5, 2.6, 5.0),
            f"the training loss is {gap:.3g} times the evaluation loss: the labels of training are harder than right ones",
        ),
        Term(
            1.0 * flat * (gap > 1.5 or rose > 1.03),
            f"the gradient points nowhere any more (cosine {seen.alignment_mean:.2f})",
        ),
        Term(
            ramp(left, 0.2, 0.5, 0.5) * (gap > 1.5),
            f"{100 * left:.0f} % of the training loss is still there",
        ),
        Term(
            -log_ramp(seen.decay_share.now, 0.15, 0.5, 4.0),
            f"weight decay is {100 * seen.decay_share.now:.0f} % of what drives the weights",
        ),
        Term(
            -2.0 * bool(evaluation and evaluation.slope > max(3 * evaluation.slope_error, 0.1)),
            "the evaluation loss rises",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    strongest = max(terms, key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"A part of the labels seems wrong: {strongest.text}.",
        advice=(
            f"Look at 50 samples of '{name}' with their labels."
            if group
            else "Look at the 50 training samples with the highest loss, and their labels.",
            "Until they are clean: label smoothing or a loss that forgives (generalised cross entropy), and stop before they are learnt by heart.",
        ),
        experiment="train 200 steps without the tenth of each batch that has the highest loss: the evaluation gains if it is mislabelled.",
    )
