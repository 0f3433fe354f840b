"""The gradient scaler skips steps: gradients overflow in half precision again and again.

Decided from backward passes that no optimizer step followed, beyond the usual accumulation, and from a loss scale that has
been halved many times. A scaler tries a larger scale every 2000 steps and skips one of them for it; several per cent are
another thing. When all steps are skipped no step is seen at all, and this says nothing: the run then looks hung.
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "amp_overflow"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    scaling = vitals.scaling
    share, scale, peak = scaling.skipped_share, scaling.loss_scale, scaling.loss_scale_peak
    scaled = peak > 1
    halvings = math.log2(peak / scale) if scaled and scale > 0 else math.nan
    terms = (
        Term(
            log_ramp(share, 0.04, 0.3, 6.0 if scaled else 3.0),
            f"{100 * share:.0f} % of the latest backward passes were followed by no step",
        ),
        Term(
            ramp(halvings, 3, 10, 2.5),
            f"the loss scale is {scale:.4g}, halved {halvings:.0f} times from {peak:.4g}",
        ),
        Term(
            -2.0 * (share < 0.02),
            "hardly any step is skipped",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Steps are skipped since gradients overflow: {100 * share:.0f} % of the latest backward passes were followed by no step, and the loss scale is {scale:.4g}.",
        advice=(
            "Find where the infinity comes from (torch.autograd.set_detect_anomaly for some steps), and compute that part in single precision.",
            "Or compute in bfloat16, which has the range of single precision and needs no loss scale.",
        ),
        experiment="run 200 steps in single precision: if the loss falls, it was the range.",
        decisive=bool(share > 0.3 and scaled),
    )
