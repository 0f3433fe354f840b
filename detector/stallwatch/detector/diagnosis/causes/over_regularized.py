"""Regularisation outweighs the loss: weights are pulled to zero as fast as the gradient pushes them out.

Decided from the pull of weight decay against the step it is part of (AdamW) or the gradient it is added to (SGD, Adam), from
weights that shrink, and from a training loss that stands above the evaluation loss, which dropout and augmentation alone do to
it. Does not see penalties that are part of the loss unless they are logged as a component. Not to be confused with
`capacity_limit` (the pull is small) and `noise_floor`.
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import decayed_away, rounded_away, worse
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "over_regularized"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, loss = vitals.optimization, vitals.loss
    share, weight = seen.decay_share, seen.weight_norm
    kept = weight.now / weight.peak if weight.peak > 0 else float("nan")
    above = worse(vitals)
    evaluation = vitals.evaluation
    gap = (
        loss.level / evaluation.level
        if loss is not None and evaluation and evaluation.level > 0
        else float("nan")
    )
    terms = (
        Term(
            # Steps that are rounded away leave a remainder of which nothing is known.
            log_ramp(share.now, 0.15, 0.6, 4.0) * (not rounded_away(vitals)),
            f"weight decay is {100 * share.now:.0f} % of what drives the weights",
        ),
        Term(
            ramp(1 - kept, 0.1, 0.5, 2.0) * (share.now > 0.1),
            f"the weights have shrunk to {100 * kept:.0f} % of their largest norm",
        ),
        Term(
            ramp(above, 0.02, 0.2, 1.5) * (share.now > 0.1),
            f"the loss stands {100 * above:.0f} % above its best",
        ),
        Term(
            4.0 * decayed_away(vitals),
            f"and has taken them to {weight.now:.2g}, from {weight.peak:.2g}",
        ),
        Term(
            log_ramp(gap, 1.15, 2.0, 3.0),
            f"the training loss is {gap:.2f} times the evaluation loss, without dropout and augmentation",
        ),
        Term(
            -log_ramp(1 / share.now if share.now > 0 else 0.0, 10, 100, 3.0) * (not gap > 1.15),
            f"weight decay is only {100 * share.now:.2g} % of what drives the weights",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    strongest = max(terms, key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Regularisation outweighs the loss: {strongest.text}.",
        advice=(
            "Lower the weight decay tenfold."
            if share.now > 0.1
            else "Lower dropout and augmentation by half.",
            "Leave biases and normalisation out of the decay.",
        ),
        experiment="run 200 steps without weight decay (or dropout): the loss falls below its present level.",
        decisive=decayed_away(vitals),
    )
