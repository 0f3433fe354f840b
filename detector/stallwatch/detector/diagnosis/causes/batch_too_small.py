"""Gradient noise dominates at this batch: steps go astray by as much as they gain, well above what the model could reach.

Decided from the gradient noise scale across ranks against the batch, and from steps that could change the loss by a good
share of it although the gradient no longer points along them: at a standstill, a quarter of that product is loss that only
the noise of the steps keeps up. Lower rates would do as well as larger batches. With one rank, only the second is known. Not
to be confused with `lr_too_high` (steps overshoot) and `noise_floor` (there is next to no such excess).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import alignment_sigma, inverse, raised, step_power
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "batch_too_small"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, noise, loss = vitals.optimization, vitals.noise, vitals.loss
    over = noise.low / noise.noise_batch if noise is not None and noise.noise_batch > 0 else math.nan
    excess = step_power(vitals) / 4
    jitter = loss.noise / loss.level if loss is not None and loss.level > 0 else math.nan
    batch = vitals.effective_batch
    terms = (
        Term(
            log_ramp(over, 5, 50, 1.5),
            f"the noise scale is at least {over:.3g} times the batch",
        ),
        Term(
            log_ramp(excess, 0.02, 0.12, 2.5),
            f"the noise of the steps keeps the loss up by about {100 * min(excess, 1):.0f} % of itself",
        ),
        Term(
            log_ramp(1 / batch if batch > 0 else 0.0, 1 / 16, 1 / 2, 2.0),
            f"a step averages over {batch:.3g} samples",
        ),
        Term(
            ramp(jitter, 0.2, 0.8, 1.0),
            f"the loss of single steps varies by {100 * jitter:.0f} % of itself",
        ),
        Term(
            -ramp(alignment_sigma(vitals), 2.0, 4.0, 4.0),
            f"the gradient still points along the steps (cosine {seen.alignment_mean:.2f})",
        ),
        Term(
            -log_ramp(raised(vitals), 1.3, 5.0, 5.0),
            f"the loss has not fallen since the learning rate went up, at step {vitals.rate.raised_at:,}",
        ),
        Term(
            -log_ramp(inverse(excess), 60, 600, 4.0),
            f"the noise of the steps is worth {100 * excess:.2g} % of the loss",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The batch is too small for this learning rate: the noise of the steps keeps the loss up by about {100 * min(excess, 1):.0f} % of itself, at {batch:.3g} samples a step.",
        advice=(
            f"Raise the batch to {4 * batch:.0f} samples (more accumulation), or lower the learning rate fourfold.",
            "Average the weights of the last steps (EMA, SWA): it takes the same noise out.",
        ),
        experiment="run 200 steps with four times the accumulation: the loss falls below its present level.",
    )
