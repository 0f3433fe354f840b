"""Clipping shortens nearly every step to a fraction of itself, and with it the learning rate.

Decided from the share of clipped steps and the factor that is left, read off the gradient before and after. Clipping every
step is common and no fault by itself: it matters when the factor is extreme, the optimizer does not undo it (Adam and its kin
do: a constant factor changes nothing for them), and the gradient still points along the steps.
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import alignment_sigma, inverse, is_adaptive, stopped
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "clipping_saturated"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, scaling = vitals.optimization, vitals.scaling
    factor, share = scaling.clip_factor, scaling.clipped_share
    if not share > 0:
        return None
    mean = seen.alignment_mean
    adaptive = is_adaptive(vitals)
    terms = (
        Term(
            ramp(share, 0.5, 0.9, 1.0),
            f"{100 * share:.0f} % of the steps are clipped",
        ),
        Term(
            log_ramp(inverse(factor), 3, 30, 4.0) * ramp(share, 0.5, 0.9, 1.0),
            f"clipping leaves {factor:.2g} of the gradient",
        ),
        Term(
            ramp(alignment_sigma(vitals), 1.5, 4.0, 2.0),
            f"the gradient after a step still points along it (cosine {mean:.2f})",
        ),
        Term(
            log_ramp(inverse(seen.update_ratio.now), 1e3, 1e5, 2.0),
            f"a step changes the weights by {seen.update_ratio.now:.2g} of their size",
        ),
        Term(
            -6.0 * adaptive,
            "the optimizer scales gradients by their own size, so a constant factor changes nothing",
        ),
        Term(
            -ramp(-alignment_sigma(vitals), 2.0, 4.0, 3.0),
            f"steps overshoot all the same (cosine {mean:.2f})",
        ),
        Term(
            -log_ramp(seen.gradient_norm.ratio, 10, 100, 3.0),
            f"the gradient itself grew {seen.gradient_norm.ratio:.3g} times",
        ),
    )
    norm = seen.gradient_norm.now
    short = seen.update_ratio.now < 1e-3
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Clipping takes nearly all of the gradient: {100 * share:.0f} % of the steps are clipped, to {factor:.2g} of their size.",
        advice=(
            f"Raise the clipping norm from {norm * factor:.2g} to about {2 * norm:.2g}, twice the usual norm of the gradient.",
            f"Or raise the learning rate up to {inverse(factor):.2g} times: clipping has lowered it by that.",
        ),
        experiment=f"run 200 steps with the clipping norm at {2 * norm:.2g}: the loss falls at once.",
        decisive=bool(share > 0.9 and factor < 0.1 and short and not adaptive and stopped(vitals)),
    )
