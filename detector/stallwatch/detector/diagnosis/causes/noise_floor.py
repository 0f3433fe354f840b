"""What is left is noise: the run has learnt what these data and this model give, and is done. Benign.

Decided from gradients that agree across ranks no more than pure noise does, a step direction that neither overshoots nor
falls short, updates of ordinary size, an evaluation that is as flat, and nothing broken. Not to be confused with `lr_too_low`
(the gradient still points somewhere) and `capacity_limit` (flat at a high loss).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "noise_floor"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen = vitals.optimization
    noise = vitals.noise
    # The agreement of ranks with nothing but noise is 1 / N.
    excess = noise.agreement * noise.world_size - 1 if noise is not None else math.nan
    flat = abs(seen.alignment_mean) + seen.alignment_error
    terms = (
        Term(
            2.0 * (flat < 0.1) if not math.isnan(flat) else 0.0,
            f"steps are neither too long nor too short (cosine {seen.alignment_mean:.2f})",
        ),
        Term(
            ramp(-excess, -0.5, 0.0, 2.0) - ramp(excess, 1.0, 4.0, 2.0),
            f"the ranks' gradients agree {1 + excess:.2g} times as well as noise does",
        ),
        Term(
            1.0 if 3e-5 < seen.update_ratio.now < 3e-2 else 0.0,
            f"steps have an ordinary size, {seen.update_ratio.now:.2g} of the weights",
        ),
        Term(
            -ramp(seen.alignment_mean - 2 * seen.alignment_error, 0.05, 0.25, 4.0),
            f"the gradient still points along the steps (cosine {seen.alignment_mean:.2f})",
        ),
        Term(
            -log_ramp(1 / seen.gradient_norm.ratio if seen.gradient_norm.ratio > 0 else 0.0, 1e2, 1e4, 3.0),
            f"the gradient has all but vanished ({seen.gradient_norm.now:.2g})",
        ),
    )
    if not any(term.nats for term in terms):
        return None
    best = max(terms, key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"What is left is noise, and the run is done at these settings: {best.text}.",
        advice=(
            "Stop here, or lower the learning rate tenfold for a last gain from averaging out the noise.",
            "More data, a larger model or other regularisation are the ways to a lower floor, not more steps.",
        ),
        experiment="lower the learning rate tenfold for 200 steps: a small drop that ends at once is the noise averaging out.",
    )
