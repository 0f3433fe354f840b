"""Gradients are so small that half precision (float16) makes them zero.

Decided from elements that are exactly zero where the typical element is at the end of what half precision can tell,
6e-8 in units of the loss scale. Without a loss scale, or with one that has collapsed, small gradients end so. bfloat16 has no
such end. Not to be confused with `vanishing_gradients` (small in early layers only, and not zero), `dead_units` (whole rows,
while what is left is of ordinary size), `frozen_parameters` (whole blocks).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import half_underflow, inverse
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "amp_underflow"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, scaling = vitals.optimization, vitals.scaling
    zeros, quanta = seen.zero_share, half_underflow(vitals)
    tiny = log_ramp(inverse(quanta), 1 / 64, 1 / 4, 1.0)
    terms = (
        Term(
            4.0 * tiny * ramp(zeros.now, 0.15, 0.4, 1.0),
            f"the typical element of the gradient is {seen.gradient_element:.2g}, {quanta:.2g} times the smallest number of half precision",
        ),
        Term(
            ramp(zeros.now, 0.3, 0.8, 2.0) * (tiny > 0),
            f"{100 * zeros.now:.0f} % of the gradient's elements are exactly zero, in half of the blocks or more",
        ),
        Term(
            ramp(zeros.now - zeros.reference, 0.2, 0.6, 1.0) * (tiny > 0),
            f"{100 * zeros.reference:.0f} % were before",
        ),
        Term(
            -4.0 * (1 - tiny) * (zeros.now > 0.15),
            f"elements that are not zero are of ordinary size ({seen.gradient_element:.2g})",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    scale = scaling.loss_scale if scaling.loss_scale > 1 else 1.0
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Gradients are lost to half precision: {100 * zeros.now:.0f} % of their elements are exactly zero, and the typical one is {seen.gradient_element:.2g}.",
        advice=(
            f"Scale the loss: torch.amp.GradScaler begins at 65536 (the scale here is {scale:.5g}).",
            "Or compute in bfloat16, whose smallest number is that of single precision.",
        ),
        experiment="run 200 steps in single precision, or with the loss times 65536: zeros disappear and the loss falls.",
        decisive=bool(quanta < 16 and zeros.now > 0.5),
    )
