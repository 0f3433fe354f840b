"""Gradients grow by orders: over time, or layer by layer on their way back.

Decided from the gradient's norm against its own past (the loss scale taken out, before clipping) and from the
gradient-to-weight ratio of early against late layers. A gradient that grows because the learning rate was raised is
`lr_too_high`; a single large one is a `loss_spike`. An explosion that healed leaves weights that were thrown far off, which
counts for it.
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import largest_gradient, raised, stopped
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp

KIND = "exploding_gradients"
_DECISIVE = 100.0
"""The typical gradient of 16 samples, times what it was: no ordinary training does that while its loss gets worse."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, loss = vitals.optimization, vitals.loss
    norm, depth, weight = seen.gradient_norm, seen.depth_ratio, seen.weight_norm
    tail = largest_gradient(vitals)
    factor = raised(vitals)
    worse = loss is not None and loss.rise > 0 and loss.rise_sigma > 3
    terms = (
        Term(
            log_ramp(norm.ratio, 8, 200, 5.0),
            f"the gradient's norm is {norm.now:.3g}, {norm.ratio:.3g} times what it was",
        ),
        Term(
            log_ramp(depth.now, 1e3, 1e5, 5.0),
            f"the first layers get {depth.now:.2g} times the gradient that the last ones get, for their size",
        ),
        Term(
            log_ramp(seen.gradient_tail, 5, 30, 5.0),
            f"single gradients are again and again as large as {seen.gradient_tail:.3g} times the usual one",
        ),
        Term(
            log_ramp(tail, 30, 1000, 3.0),
            f"there were gradients up to {tail:.3g} times as large as usual",
        ),
        Term(
            log_ramp(weight.ratio, 1.3, 3.0, 1.5),
            f"the weights are {weight.ratio:.3g} times as large as they were",
        ),
        Term(
            1.0 * ("non_finite" in vitals.findings),
            "values that are not finite came up",
        ),
        Term(
            1.0 * worse,
            f"the loss stands {loss.rise if loss else 0:.3g} above its best",
        ),
        Term(
            -log_ramp(factor, 1.3, 3.0, 4.0),
            f"the learning rate went up {factor:.3g} times, at step {vitals.rate.raised_at:,}",
        ),
    )
    if not any(term.nats > 0 for term in terms[:4]):
        return None
    strongest = max(terms[:4], key=lambda term: term.nats)
    grown = norm.ratio > _DECISIVE and worse and not factor > 1
    deep = depth.now > 1e5 and stopped(vitals)
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Gradients explode: {strongest.text}.",
        advice=(
            f"Clip the gradient's norm at about {norm.reference:.2g}, what it was in good times.",
            "Go back to the last checkpoint before it grew; normalise between layers, or initialise with smaller weights.",
        ),
        experiment="from the last good checkpoint, run 200 steps with clipping: the loss stays where it was.",
        decisive=bool(grown or deep),
    )
