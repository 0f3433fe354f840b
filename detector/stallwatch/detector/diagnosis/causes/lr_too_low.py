"""The learning rate is too low to use what the gradient still offers.

Decided from the alignment of the new gradient with the step just taken: it still points along it, so a longer step would have
gone further. Steps that are tiny against the weights and a rate far below its peak fit, and are no evidence by themselves:
at the planned end of a schedule both are so and nothing is wrong. Cannot be told while the cosine is within its error of
zero. Not to be confused with `noise_floor` (the gradient no longer points anywhere), nor with `clipping_saturated`,
`optimizer_starved` and `amp_underflow` (the rate is fine, and something else shortens the steps).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import (
    alignment_sigma,
    half_underflow,
    inverse,
    is_adam,
    is_adaptive,
    rounded_away,
)
from stallwatch.detector.diagnosis.timeline import at_schedule_end, cut
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "lr_too_low"
_END = 0.9
"""Share of the planned steps after which a low rate is what was planned."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, rate = vitals.optimization, vitals.rate
    mean, error = seen.alignment_mean, seen.alignment_error
    terms = (
        Term(
            ramp(alignment_sigma(vitals), 1.5, 4.0, 2.5),
            f"the gradient after a step still points along it (cosine {mean:.2f} +- {error:.2f})",
        ),
        Term(
            ramp(mean, 0.02, 0.12, 2.5),
            f"that much of it ({mean:.2f}) would be gained by longer steps",
        ),
        Term(
            ramp(seen.agreement.now, 0.15, 0.5, 1.0),
            f"gradients keep their direction from step to step (cosine {seen.agreement.now:.2f})",
        ),
        Term(
            -ramp(-(mean + 2 * error), -0.15, -0.03, 4.0) * (not rounded_away(vitals)),
            f"the gradient does not point along the steps (cosine {mean:.2f} +- {error:.2f})",
        ),
        Term(
            log_ramp(inverse(seen.update_ratio.now), 1e3, 1e5, 1.0),
            f"a step changes the weights by {seen.update_ratio.now:.2g} of their size",
        ),
        Term(
            -log_ramp(seen.update_ratio.now, 2e-3, 2e-2, 3.0),
            f"steps are not small: {seen.update_ratio.now:.2g} of the weights",
        ),
        *_schedule(vitals),
        Term(
            5.0 * (rounded_away(vitals) and not at_schedule_end(vitals)),
            f"steps at {rate.ratio:.1g} of the peak rate are below what single precision can add to the weights",
        ),
        Term(
            # By itself it says little: schedules end low, and are meant to.
            log_ramp(inverse(rate.ratio), 5, 100, 2.0 if seen.alignment.count else 0.7),
            f"the learning rate, {rate.now:.3g}, is 1/{inverse(rate.ratio):.3g} of its peak",
        ),
        *_against(vitals),
    )
    if not any(term.nats for term in terms):
        return None
    strongest = max(terms, key=lambda term: term.nats)
    target = rate.peak if rate.ratio < 0.5 else 3 * rate.now
    # Three times next to nothing is next to nothing.
    tried, words = (
        (rate.peak / 10, "a tenth of its peak")
        if rate.ratio < 1 / 30
        else (3 * rate.now, "three times the rate")
    )
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The learning rate is too low: {strongest.text}.",
        advice=(
            f"Restart the learning rate at {target:.2g} (it is {rate.now:.2g}) and watch the next looks.",
            "If that rate is where a schedule ended on purpose, the run is over at these settings.",
        ),
        experiment=f"run 200 steps at {tried:.2g}, {words}: the loss falls at once if it was too low.",
        since_step=rate.since if rate.ratio < 0.5 else -1,
    )


def _schedule(vitals: Vitals) -> tuple[Term, ...]:
    """What the rate did, and the loss with it: all that a log has to tell."""
    rate, came = vitals.rate, cut(vitals)
    factor, before, after, over = (
        (came.factor, came.fall_before, came.fall_after, came.steps) if came else (math.nan,) * 4
    )
    stopped_it = after < 0.2 * before
    low = (vitals.step - rate.low_since) / max(vitals.step - vitals.evidence_from, 1)
    return (
        Term(
            log_ramp(inverse(factor), 2, 20, 2.0)
            * (1 + ramp(before, 0.02, 0.1, 1.0))
            * stopped_it
            * (before > 0.02),
            f"the loss fell by {100 * before:.3g} % over the {over:,.0f} steps before the rate was cut at step {rate.since:,}, and by {100 * after:.2g} % over as many since",
        ),
        Term(
            -2.5 * bool(came and factor < 0.5 and after > max(0.02, 0.5 * before)),
            f"the loss fell by {100 * after:.2g} % after the rate was cut at step {rate.since:,}, and so made use of it",
        ),
        Term(
            ramp(low, 0.4, 0.8, 1.0) * (rate.low_since >= 0),
            f"for {100 * low:.0f} % of the run it has been below a tenth of its peak",
        ),
        Term(
            -6.0 * at_schedule_end(vitals),
            f"its schedule is at its end, as planned ({rate.now:.2g}, {100 * rate.ratio:.2g} % of the peak)",
        ),
    )


def _against(vitals: Vitals) -> tuple[Term, ...]:
    """What else makes steps short, and what makes a low rate right."""
    seen, scaling = vitals.optimization, vitals.scaling
    total = vitals.declaration.total_steps if vitals.declaration else 0
    clipped = 0.0 if is_adaptive(vitals) else scaling.clipped_share
    return (
        Term(
            -log_ramp(inverse(scaling.clip_factor), 3, 20, 5.0) * ramp(clipped, 0.5, 0.9, 1.0),
            f"clipping shortens the steps to {scaling.clip_factor:.2g} of what the rate asks for",
        ),
        Term(
            0.0
            if rounded_away(vitals)
            else -log_ramp(inverse(seen.effective_step.ratio), 4, 30, 5.0) * is_adaptive(vitals)
            - log_ramp(inverse(seen.effective_step.now), 20, 300, 5.0) * is_adam(vitals),
            f"the optimizer makes {seen.effective_step.now:.2g} of a step out of the rate, {seen.effective_step.reference:.2g} before",
        ),
        Term(
            -log_ramp(inverse(half_underflow(vitals)), 0.02, 0.5, 5.0)
            * ramp(seen.zero_share.now, 0.2, 0.5, 1.0),
            f"the gradient is lost to half precision (elements of {seen.gradient_element:.2g})",
        ),
        Term(
            -2.0 * bool(total and vitals.step > _END * total),
            f"the run is at its planned end (step {vitals.step:,} of {total:,})",
        ),
    )
