"""Many units are dead: they never fire, or sit at the limits of their activation, and no gradient passes them.

Decided from whole rows of zeros in the gradients of matrices, apart from matrices that get none at all, and from the share of
saturated outputs of tanh and sigmoid modules. A third of dead units is ordinary for ReLU. Embeddings are left out. Units that
fire seldom look dead in a small batch. Not to be confused with `vanishing_gradients` (small, not zero), `frozen_parameters`
(whole blocks, and all others healthy), `amp_underflow` (what is left is tiny as well).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import (
    decayed_away,
    grown,
    half_underflow,
    inverse,
    largest_gradient,
    raised,
    stopped,
)
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "dead_units"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen = vitals.optimization
    rows, all_rows, worst = seen.live_zero_rows, seen.zero_row_share, seen.worst_zero_rows
    cut = seen.silent_share.now > 0.99
    dead = all_rows.now if cut else rows.now
    before = all_rows.reference if cut else rows.reference
    saturated = seen.saturated_share
    largest = largest_gradient(vitals)
    terms = (
        Term(
            ramp(dead, 0.4, 0.8, 4.0),
            f"{100 * dead:.0f} % of the units get no gradient at all",
        ),
        Term(
            ramp(dead - before, 0.15, 0.5, 2.0),
            f"{100 * before:.0f} % did before",
        ),
        Term(
            ramp(worst[1], 0.8, 0.99, 1.0) * (dead > 0.4),
            f"in {worst[0]} it is {100 * worst[1]:.0f} %",
        ),
        Term(
            ramp(saturated, 0.6, 0.9, 5.0),
            f"{100 * saturated:.0f} % of the outputs of activations are at their limits",
        ),
        Term(
            -log_ramp(inverse(half_underflow(vitals)), 0.02, 0.25, 5.0),
            f"what is not zero is tiny as well ({seen.gradient_element:.2g})",
        ),
        Term(
            -log_ramp(raised(vitals), 1.3, 5.0, 3.0),
            f"the learning rate went up at step {vitals.rate.raised_at:,}, and units die of large steps",
        ),
        Term(
            -log_ramp(largest, 50, 1000, 4.0),
            f"gradients were up to {largest:.3g} times as large as usual, and units die of large steps",
        ),
        Term(
            -log_ramp(grown(vitals), 2.0, 8.0, 3.0),
            f"the weights have grown {grown(vitals):.3g} times at large steps, and units die of such",
        ),
        Term(
            -6.0 * decayed_away(vitals),
            f"weight decay has taken the weights to {seen.weight_norm.now:.2g}, from {seen.weight_norm.peak:.2g}",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    by_rows = terms[0].nats >= terms[3].nats
    what = terms[0].text if by_rows else terms[3].text
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Most units are dead: {what}.",
        advice=(
            "Go back to a checkpoint before it, with a lower learning rate or a warm-up: large steps are what kills units.",
            "Normalise before the activation, or use one that always lets some gradient through (GELU, LeakyReLU)."
            if by_rows
            else "Initialise with smaller weights or normalise before the activation, so that its inputs stay near 1.",
        ),
        experiment="swap the activation for LeakyReLU (or halve the weights before tanh) and run 200 steps: the loss falls.",
        decisive=bool(
            not decayed_away(vitals)
            and (
                # Small batches make sparse units look dead: it takes a loss that stopped, or units that died on the way.
                (dead > 0.85 and (stopped(vitals) or dead - before > 0.3) and not half_underflow(vitals) < 16)
                or (saturated > 0.9 and stopped(vitals))
            )
        ),
        layers=(worst[0],) if by_rows and worst[0] else (seen.saturated[0],),
    )
