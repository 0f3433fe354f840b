"""Evidence that two benign causes share: a flat loss whose gradients are alive and point nowhere, and nothing broken."""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import inverse, is_adaptive, raised
from stallwatch.detector.diagnosis.relatives import got_through, relatives
from stallwatch.detector.diagnosis.timeline import (
    at_schedule_end,
    change_at_onset,
    cut,
    latest_rise,
    near_onset,
)
from stallwatch.detector.diagnosis.weighing import Term, log_ramp, ramp

_FLAT = 0.06
"""A cosine between gradient and step below this is that of noise: a step twice as long would gain nothing."""


def progress(vitals: Vitals) -> float:
    """What is left of the loss, as a share of where it started; NaN when unknown or not above zero."""
    loss = vitals.loss
    if loss is None or not vitals.loss_start > 0 or not loss.level > 0:
        return math.nan
    return loss.level / vitals.loss_start


def flatness(vitals: Vitals) -> tuple[Term, ...]:
    """For and against: gradients without direction, steps of ordinary size, an evaluation that is as flat."""
    seen, noise = vitals.optimization, vitals.noise
    mean, error = seen.alignment_mean, seen.alignment_error
    # The agreement of ranks with nothing but noise is 1 / N.
    excess = noise.agreement * noise.world_size - 1 if noise is not None else math.nan
    over = noise.low / noise.noise_batch if noise is not None and noise.noise_batch > 0 else math.nan
    ended = at_schedule_end(vitals)
    pointing = mean - 2 * error
    return (
        Term(
            2.0 * (abs(mean) <= max(_FLAT, 2 * error) and error < 2 * _FLAT),
            f"steps are neither too long nor too short (cosine {mean:.2f} +- {error:.2f})",
        ),
        Term(
            ramp(-excess, -0.6, -0.1, 1.5) - ramp(excess, 1.0, 4.0, 2.0),
            f"the ranks' gradients agree {1 + excess:.2g} times as well as noise does",
        ),
        Term(
            log_ramp(over, 2, 10, 0.5),
            f"the noise scale is at least {over:.3g} times the batch",
        ),
        Term(
            # At a batch of a few samples noise hides any slope: that gradients show none says nothing.
            -log_ramp(inverse(vitals.effective_batch), 1 / 8, 1 / 2, 3.0),
            f"a step averages over {vitals.effective_batch:.3g} samples, whose noise would hide a slope",
        ),
        Term(
            1.0 * (3e-5 < seen.update_ratio.now < 3e-2),
            f"steps have an ordinary size, {seen.update_ratio.now:.2g} of the weights",
        ),
        Term(
            0.0 if ended else -ramp(pointing, 0.03, 0.2, 5.0),
            f"the gradient still points along the steps (cosine {mean:.2f} +- {error:.2f})",
        ),
        Term(
            -ramp(-mean - 2 * error, 0.1, 0.35, 3.0),
            f"steps overshoot (cosine {mean:.2f} +- {error:.2f})",
        ),
        *_evaluation(vitals),
    )


def _evaluation(vitals: Vitals) -> tuple[Term, ...]:
    series, loss = vitals.evaluation, vitals.loss
    if series is None or loss is None:
        return ()
    still = abs(series.slope) <= max(3 * series.slope_error, 0.05)
    gap = series.level / loss.level if loss.level > 0 and series.level > 0 else math.nan
    return (
        # Whatever holds the training loss up holds this one up as well: it only speaks against overfitting.
        Term(0.5 * still, "the evaluation loss is as flat"),
        Term(
            -2.0 * (series.slope < -max(3 * series.slope_error, 0.1)),
            "the evaluation loss still falls",
        ),
        Term(
            -log_ramp(gap, 1.5, 4.0, 2.0),
            f"the evaluation loss is {gap:.3g} times the training loss",
        ),
        Term(
            -log_ramp(inverse(gap), 1.3, 2.5, 4.0),
            f"the training loss is {inverse(gap):.3g} times the evaluation loss, which the model could reach as well",
        ),
    )


def lowest_reached(vitals: Vitals) -> Term:
    """Against: another run of the same model stands clearly below, so this is neither a floor nor a limit."""
    found = relatives(vitals)
    below = found.through if found else ()
    alike = [each for each in below if found and each.parameters == found.own.parameters]
    return Term(-2.5 * bool(alike), f"{got_through(found) if found and alike else ''}")


def nothing_broken(vitals: Vitals) -> tuple[Term, ...]:
    """Against: what no run in order shows."""
    seen, scaling, loss = vitals.optimization, vitals.scaling, vitals.loss
    norm = seen.gradient_norm
    worse = (
        loss.rise / loss.level if loss is not None and loss.level > 0 and loss.rise_sigma > 3 else math.nan
    )
    clipped = 0.0 if is_adaptive(vitals) else scaling.clipped_share
    came = cut(vitals)
    early = came is not None and came.factor < 0.3 and came.fall_before > 0.03
    rise = latest_rise(vitals)
    change, nats = change_at_onset(vitals)
    factor = raised(vitals)
    return (
        Term(
            -ramp(seen.left_share, 0.05, 0.3, 5.0), f"{len(seen.left_blocks)} blocks are not trained any more"
        ),
        Term(
            -ramp(seen.zero_share.now - seen.zero_share.reference, 0.15, 0.4, 5.0),
            f"{100 * seen.zero_share.now:.0f} % of the gradient's elements are exactly zero",
        ),
        Term(
            -ramp(seen.live_zero_rows.now, 0.5, 0.8, 4.0),
            f"{100 * seen.live_zero_rows.now:.0f} % of the units get no gradient",
        ),
        Term(-ramp(seen.saturated_share, 0.6, 0.9, 4.0), "activations are at their limits"),
        Term(
            -log_ramp(inverse(seen.depth_ratio.now), 1e3, 1e5, 5.0),
            f"the first layers get {seen.depth_ratio.now:.1g} of the gradient that the last ones get",
        ),
        Term(
            -log_ramp(inverse(norm.ratio), 1e2, 1e4, 4.0),
            f"the gradient has all but vanished ({norm.now:.2g}, {norm.reference:.2g} before)",
        ),
        Term(-log_ramp(norm.ratio, 5, 50, 4.0), f"the gradient is {norm.ratio:.3g} times what it was"),
        Term(
            -log_ramp(inverse(seen.effective_step.ratio), 4, 20, 5.0) * is_adaptive(vitals),
            "the optimizer has shortened its steps",
        ),
        Term(
            -log_ramp(inverse(scaling.clip_factor), 3, 20, 5.0) * ramp(clipped, 0.5, 0.9, 1.0),
            f"clipping shortens the steps to {scaling.clip_factor:.2g}",
        ),
        Term(-ramp(scaling.skipped_share, 0.1, 0.3, 4.0), "steps are skipped"),
        Term(
            -log_ramp(seen.decay_share.now, 0.2, 0.6, 4.0),
            f"weight decay is {100 * seen.decay_share.now:.0f} % of what drives the weights",
        ),
        Term(
            # What it once stood below is neither the floor nor the limit.
            -ramp(worse, 0.03, 0.12, 4.0),
            f"the loss stands {100 * worse:.0f} % above its best",
        ),
        Term(
            -3.0 * (loss is not None and loss.state in ("oscillating", "diverging")),
            f"the loss is {loss.state if loss else ''}",
        ),
        Term(
            -4.0 * (came is not None and early and came.fall_after < 0.2 * came.fall_before),
            f"the loss was still falling when the rate was cut, at step {vitals.rate.since:,}",
        ),
        Term(
            # It stood lower before: what holds it up now is neither the model nor the data.
            -log_ramp(factor, 1.3, 5.0, 4.0),
            f"the loss has not fallen since the learning rate went up {factor:.3g} times, at step {vitals.rate.raised_at:,}",
        ),
        Term(
            -2.5 * bool(rise and near_onset(vitals, rise.step)),
            f"the loss jumped up at step {rise.step if rise else 0:,}",
        ),
        Term(
            -min(nats, 2.5),
            f"something was changed at step {change.step if change else 0:,}, where the stall begins",
        ),
        *_named(vitals),
    )


def _named(vitals: Vitals) -> tuple[Term, ...]:
    """Parts of the loss that did not learn."""
    behind = [each for each in (*vitals.groups, *vitals.components) if each.share > 0.02]
    fallen = [each for each in behind if 0 < each.level < 0.6 * each.start]
    stuck = [each for each in behind if each.level > 0.85 * each.start > 0]
    return (
        Term(
            -3.0 * bool(fallen and stuck),
            f"{stuck[0].name if stuck else ''} has not improved while {fallen[0].name if fallen else ''} has",
        ),
    )
