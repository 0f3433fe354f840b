"""Parameters that were trained are trained no longer: they get no gradient or no update, while others do.

Decided from blocks whose gradient or update is exactly nothing on sample after sample, and was not before; automatic events
say when `requires_grad` was turned off. What was frozen before the run began, and what never had a gradient (heads that are
not used), is left out. Not to be confused with `vanishing_gradients` (small, not zero) and `dead_units` (units of a matrix
die one by one, and what lies before them starves with them).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import (
    decayed_away,
    half_underflow,
    largest_gradient,
    rounded_away,
    stopped,
)
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "frozen_parameters"
_BURST = 100.0
"""A gradient so many times larger than usual kills the units before a block: what gets none after it is dead, not frozen."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen, loss = vitals.optimization, vitals.loss
    if not seen.left_blocks:
        return None
    share, since = seen.left_share, seen.left_since
    near = [each for each in vitals.events if each.kind == "requires_grad" and abs(each.step - since) <= 64]
    lag = (
        (loss.since_step - since) / max(since - vitals.evidence_from, 64)
        if loss is not None
        else float("nan")
    )
    dead, largest = seen.live_zero_rows.now, largest_gradient(vitals)
    terms = (
        Term(
            ramp(share, 0.1, 0.6, 5.0),
            f"{len(seen.left_blocks)} blocks, {100 * share:.0f} % of those that were trained, are not trained since step {since:,}",
        ),
        Term(
            1.5 * bool(near),
            f"requires_grad was changed at step {near[-1].step if near else 0:,}",
        ),
        Term(
            1.0 * (abs(lag) < 0.5),
            f"the loss stopped falling at step {loss.since_step if loss else 0:,}",
        ),
        Term(
            -ramp(dead, 0.5, 0.8, 5.0) if not near else 0.0,
            f"{100 * dead:.0f} % of the units have no gradient where some have",
        ),
        Term(
            -6.0 * _is_rounded_away(vitals),
            f"they have gradients, and the learning rate is {vitals.rate.ratio:.1g} of its peak: such steps are rounded away",
        ),
        Term(
            -log_ramp(largest, _BURST / 2, 10 * _BURST, 4.0) if not near else 0.0,
            f"gradients were up to {largest:.3g} times as large as usual, and blocks die of large steps",
        ),
        Term(
            -4.0 * (seen.silent_share.now > 0.99 and not near),
            "no matrix gets a gradient",
        ),
        Term(
            -6.0 * _is_lost(vitals),
            f"what is left of the gradient is at the end of half precision ({seen.gradient_element:.2g})",
        ),
        Term(
            -6.0 * decayed_away(vitals),
            f"weight decay has taken the weights to {seen.weight_norm.now:.2g}, from {seen.weight_norm.peak:.2g}",
        ),
    )
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"{len(seen.left_blocks)} blocks of parameters, {100 * share:.0f} % of those that were trained, are not trained any more since step {since:,}: {', '.join(seen.left_blocks[:3])}.",
        advice=(
            f"If that was not meant to be: set requires_grad_(True) for them, and look at what changed at step {since:,} (detach(), no_grad(), a freeze that a metric set off).",
            "If it was: lower the learning rate less and train what is left longer, or thaw layer by layer.",
        ),
        experiment="thaw everything for 200 steps: the loss falls at once.",
        decisive=_is_broken(vitals, flagged=bool(near)),
        since_step=since,
        layers=seen.left_blocks[:8],
    )


def _is_broken(vitals: Vitals, *, flagged: bool) -> bool:
    """Half of the model is cut off. A flag that was turned off is somebody's decision, as long as the loss goes on falling."""
    seen = vitals.optimization
    if decayed_away(vitals) or not seen.left_share >= 0.5 or seen.live_zero_rows.now > 0.5:
        return False
    if _is_rounded_away(vitals):
        return False
    if flagged:
        return stopped(vitals)
    return seen.silent_share.now < 0.99 and not _is_lost(vitals) and not largest_gradient(vitals) > _BURST


def _is_rounded_away(vitals: Vitals) -> bool:
    """Whether blocks rest only because steps at this learning rate are below what single precision can add to their weights."""
    seen = vitals.optimization
    return rounded_away(vitals) and set(seen.left_blocks) <= set(seen.still_with_gradient)


def _is_lost(vitals: Vitals) -> bool:
    """Whether gradients are so small that half precision rounds whole blocks of them to nothing."""
    return half_underflow(vitals) < 16
