"""The learning rate is too low to use what the gradient still offers.

Decided from the alignment of the new gradient with the step just taken (it still points along it: longer steps would have
gone further), updates that are tiny against weights and against their own past, and a rate far below its peak. Not to be
confused with `noise_floor` (the gradient no longer points anywhere), `clipping_saturated` and `optimizer_starved` (the rate
is fine, something else shortens the steps).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "lr_too_low"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, rate = vitals.optimization, vitals.rate
    aligned = seen.alignment_mean - 2 * seen.alignment_error
    terms = (
        Term(
            ramp(aligned, 0.05, 0.25, 4.0),
            f"the gradient after a step still points along it (cosine {seen.alignment_mean:.2f} +- {seen.alignment_error:.2f})",
        ),
        Term(
            -ramp(-seen.alignment_mean, 0.02, 0.1, 4.0),
            f"steps overshoot (cosine {seen.alignment_mean:.2f})",
        ),
        Term(
            log_ramp(1 / seen.update_ratio.now if seen.update_ratio.now > 0 else 0.0, 1e3, 1e5, 2.0),
            f"a step changes the weights by {seen.update_ratio.now:.2g} of their size",
        ),
        Term(
            log_ramp(1 / rate.ratio if rate.ratio > 0 else 0.0, 10, 1000, 3.0),
            f"the learning rate, {rate.now:.3g}, is 1/{1 / rate.ratio:.3g} of its peak"
            if rate.ratio > 0
            else "the learning rate is unknown",
        ),
        Term(
            -log_ramp(seen.update_ratio.now, 3e-3, 3e-2, 3.0),
            f"steps are not small: {seen.update_ratio.now:.2g} of the weights",
        ),
    )
    if not any(term.nats for term in terms):
        return None
    strongest = max(terms, key=lambda term: term.nats)
    target = rate.peak if rate.ratio < 0.5 else 3 * rate.now
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The learning rate is too low: {strongest.text}.",
        advice=(
            f"Restart the learning rate at {target:.2g} (it is {rate.now:.2g}) and watch the next looks.",
            "If that rate is where a schedule ended on purpose, the run is over at these settings.",
        ),
        experiment=f"run 200 steps at {3 * rate.now:.2g}, three times the rate: the loss falls at once if it was too low.",
    )
