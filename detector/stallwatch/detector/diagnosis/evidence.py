"""Quantities that several causes are weighed by."""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals

HALF_QUANTUM = 2.0**-24
"""The smallest number of half precision (float16): what is below half of it is 0."""
_NOTHING = 1e-3
_ADAPTIVE = (
    "adam",
    "rmsprop",
    "adagrad",
    "adadelta",
    "lamb",
    "lion",
    "adafactor",
    "novograd",
    "muon",
    "sophia",
)


def is_adaptive(vitals: Vitals) -> bool:
    """Whether the optimizer divides by its own measure of the gradient, so that a constant factor on it changes nothing."""
    name = vitals.declaration.optimizer.lower() if vitals.declaration else ""
    return any(word in name for word in _ADAPTIVE)


def is_adam(vitals: Vitals) -> bool:
    """Whether steps have, in units of the learning rate, the size of Adam's: 0.05 where all is noise to 1 where gradients agree."""
    name = vitals.declaration.optimizer.lower() if vitals.declaration else ""
    return "adam" in name or "rmsprop" in name


def alignment_sigma(vitals: Vitals) -> float:
    """How sure the sign of the alignment is, in standard errors; NaN when unknown."""
    seen = vitals.optimization
    if not seen.alignment_error > 0:
        return math.nan
    return seen.alignment_mean / seen.alignment_error


def step_power(vitals: Vitals) -> float:
    """Norm of the gradient times that of a step, as a share of the loss: the most that one step can change it, to first order."""
    seen, loss = vitals.optimization, vitals.loss
    if loss is None or not loss.level > 0:
        return math.nan
    return seen.gradient_norm.now * seen.update_ratio.now * seen.weight_norm.now / loss.level


def half_underflow(vitals: Vitals) -> float:
    """The typical element of the gradient, as the backward computes it, in units of the smallest number of half precision."""
    quanta = vitals.optimization.gradient_element / HALF_QUANTUM
    return quanta if math.isnan(quanta) else max(quanta, _NOTHING)


def raised(vitals: Vitals) -> float:
    """Factor by which the learning rate was raised, if the loss has got worse or stopped falling since; NaN otherwise."""
    rate, loss = vitals.rate, vitals.loss
    if rate.raised_at < 0 or loss is None or not rate.now > rate.raised_from > 0:
        return math.nan
    since = loss.since_step + loss.since_step_error >= rate.raised_at and loss.state != "improving"
    return rate.now / rate.raised_from if since or loss.rise > 0.05 * loss.level > 0 else math.nan


def grown(vitals: Vitals) -> float:
    """How many times as large as at their smallest the weights are, while steps still change them by 0.3 % or more; NaN otherwise."""
    weight, ratio = vitals.optimization.weight_norm, vitals.optimization.update_ratio.now
    return weight.now / weight.lowest if weight.lowest > 0 and ratio > 3e-3 else math.nan


def largest_gradient(vitals: Vitals) -> float:
    """The largest gradient that was seen over the usual one; NaN when unknown."""
    norm = vitals.optimization.gradient_norm
    return norm.peak / norm.reference if norm.reference > 0 else math.nan


_ROUNDED = 1e-4
"""Usual steps change weights by a thousandth; 1e-4 of that is the resolution of single precision."""


def rounded_away(vitals: Vitals) -> bool:
    """Whether steps at this learning rate are below what single precision can add to the weights: whatever they measure."""
    return vitals.rate.ratio < _ROUNDED


def decayed_away(vitals: Vitals) -> bool:
    """Whether weight decay has taken nearly all of the weights: gradients, units and blocks die of that, too."""
    seen = vitals.optimization
    return bool(seen.weight_norm.now < 0.2 * seen.weight_norm.peak and seen.decay_share.peak > 0.3)


def worse(vitals: Vitals) -> float:
    """How far the loss stands above its best, as a share of it; NaN while that is within the noise."""
    loss = vitals.loss
    if loss is None or not loss.level > 0 or not loss.rise_sigma > 3:
        return math.nan
    return loss.rise / loss.level


def stopped(vitals: Vitals) -> bool:
    """Whether the loss no longer falls."""
    return vitals.loss is not None and vitals.loss.state in ("plateau", "slow", "oscillating", "diverging")


def inverse(value: float) -> float:
    """One over a value above 0; NaN otherwise."""
    return 1 / value if value > 0 else math.nan
