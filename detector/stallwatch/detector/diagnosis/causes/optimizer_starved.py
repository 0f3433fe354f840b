"""The optimizer's state has grown until its steps are tiny, although gradients and learning rate are what they were.

Decided from the size of a step in units of the learning rate, which for Adam lies between 0.05 and 1 in any ordinary run: a
few huge gradients leave second moments that take thousands of steps to fade, and Adagrad's never do. Says nothing of plain
SGD, whose steps follow the gradient. Not to be confused with `lr_too_low` (the rate itself is low).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import (
    alignment_sigma,
    half_underflow,
    inverse,
    is_adam,
    is_adaptive,
    rounded_away,
)
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "optimizer_starved"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    if not is_adaptive(vitals):
        return None
    seen = vitals.optimization
    step, norm = seen.effective_step, seen.gradient_norm
    terms = (
        Term(
            log_ramp(inverse(step.ratio), 3, 20, 3.0),
            f"the optimizer makes {step.now:.2g} of a step out of the learning rate, and made {step.reference:.2g}",
        ),
        Term(
            log_ramp(inverse(step.now), 20, 300, 4.0) * is_adam(vitals),
            f"steps are {step.now:.2g} of the learning rate, where Adam's are 0.05 to 1",
        ),
        Term(
            ramp(norm.ratio, 0.3, 0.7, 1.0) * (step.ratio < 0.3),
            f"gradients are {norm.ratio:.2g} times what they were",
        ),
        Term(
            log_ramp(norm.peak / norm.reference if norm.reference > 0 else 0.0, 20, 1000, 1.0),
            f"single gradients were up to {norm.peak:.3g}",
        ),
        Term(
            ramp(alignment_sigma(vitals), 2.0, 4.0, 1.0),
            f"the gradient after a step still points along it (cosine {seen.alignment_mean:.2f})",
        ),
        Term(
            ramp(seen.agreement.now - seen.agreement.reference, 0.15, 0.5, 2.0),
            f"gradients have the same direction step after step (cosine {seen.agreement.now:.2f}), for nothing moves",
        ),
        Term(
            -ramp(seen.zero_share.now - seen.zero_share.reference, 0.2, 0.5, 5.0),
            f"{100 * seen.zero_share.now:.0f} % of the gradient's elements are exactly zero",
        ),
        Term(
            -6.0 * rounded_away(vitals),
            f"the learning rate is {vitals.rate.ratio:.1g} of its peak: such steps are rounded away",
        ),
        Term(
            -ramp(seen.left_share, 0.2, 0.5, 5.0),
            f"{len(seen.left_blocks)} blocks are not trained any more",
        ),
        Term(
            -log_ramp(inverse(half_underflow(vitals)), 0.02, 0.5, 3.0) * (seen.zero_share.now > 0.3),
            f"the gradient is lost to half precision (elements of {seen.gradient_element:.2g})",
        ),
    )
    if not any(term.nats > 0 for term in terms[:2]):
        return None
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The optimizer's own state shortens its steps: they are {step.now:.2g} of the learning rate, and were {step.reference:.2g}, at gradients of {norm.now:.3g} ({norm.reference:.3g} before).",
        advice=(
            "Reset the optimizer's state (make a new optimizer), with a warm-up of some hundred steps.",
            "Against the next one: clip the gradient's norm, or lower beta2 (0.95 to 0.99), so that large gradients are forgotten sooner.",
        ),
        experiment="run 200 steps with a fresh optimizer at the same rate: the loss falls at once.",
        decisive=bool(
            step.ratio < 0.05 and step.now < 0.03 and norm.ratio > 0.2 and not rounded_away(vitals)
        ),
    )
