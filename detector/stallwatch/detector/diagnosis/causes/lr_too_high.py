"""The learning rate is so high that steps overshoot: the loss swings, rises, or hangs far above where it was.

Decided from gradients that point back after a step, steps that are large against the weights or could change the whole loss
at once, and a loss that got worse when the rate was raised. Some overshoot is ordinary in a healthy run at a large constant
rate; it takes more than that. Not to be confused with `exploding_gradients` (gradients grow, and the rate did not change) and
`batch_too_small` (no overshoot, only noise).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import alignment_sigma, grown, inverse, raised, step_power, worse
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "lr_too_high"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, rate, loss = vitals.optimization, vitals.rate, vitals.loss
    mean, error = seen.alignment_mean, seen.alignment_error
    factor = raised(vitals)
    above = worse(vitals)
    state = loss.state if loss is not None else ""
    # Many things make a loss rise: without gradients or a raised rate, that it does says little of the rate.
    known = 1.0 if seen.alignment.count or factor > 1 else 0.3
    terms = (
        Term(
            ramp(-alignment_sigma(vitals), 2.0, 5.0, 1.0) + ramp(-mean, 0.05, 0.3, 2.0),
            f"the gradient after a step points back (cosine {mean:.2f} +- {error:.2f})",
        ),
        Term(
            log_ramp(seen.update_ratio.now, 1e-2, 1e-1, 2.0),
            f"a step changes the weights by {seen.update_ratio.now:.2g} of their size",
        ),
        Term(
            log_ramp(step_power(vitals), 1.0, 30.0, 2.0),
            f"a single step could change the loss by {step_power(vitals):.2g} times its size",
        ),
        Term(
            log_ramp(factor, 1.3, 5.0, 4.0),
            f"the loss has not fallen since the rate went up {factor:.3g} times, at step {rate.raised_at:,}",
        ),
        Term(
            log_ramp(grown(vitals), 2.0, 8.0, 2.5),
            f"the weights have grown {grown(vitals):.3g} times and still change by {seen.update_ratio.now:.2g} a step",
        ),
        Term(
            # Weights that are replaced within ten steps forget where they began.
            log_ramp(seen.update_ratio.peak, 0.1, 0.5, 2.0),
            f"a single step has changed the weights by {seen.update_ratio.peak:.2g} of their size",
        ),
        Term(
            known * ramp(above, 0.05, 0.5, 1.5),
            f"the loss stands {100 * above:.3g} % above its best",
        ),
        Term(
            1.5 * known * (state in ("oscillating", "diverging")),
            f"the loss is {state}",
        ),
        Term(
            -ramp(alignment_sigma(vitals), 2.0, 4.0, 4.0),
            f"the gradient still points along the steps (cosine {mean:.2f} +- {error:.2f})",
        ),
        Term(
            -log_ramp(inverse(seen.update_ratio.now), 2e3, 2e4, 4.0),
            f"steps are small: {seen.update_ratio.now:.2g} of the weights",
        ),
    )
    if not any(term.nats for term in terms):
        return None
    strongest = max(terms, key=lambda term: term.nats)
    target = rate.raised_from if factor > 1 else rate.now / 5
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The learning rate is too high: {strongest.text}.",
        advice=(
            f"Lower the learning rate to {target:.2g} (it is {rate.now:.2g}).",
            "Where it was raised, warm it up over some hundred steps, or lower the momentum with it.",
        ),
        experiment=f"run 200 steps at {rate.now / 3:.2g}, a third of the rate: the loss falls below its present level within them.",
        since_step=rate.raised_at if factor > 1 else -1,
    )
