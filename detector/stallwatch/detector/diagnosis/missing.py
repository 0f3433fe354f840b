"""What would have to be known to tell causes apart, when they could not be told."""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals


def missing(vitals: Vitals) -> tuple[str, ...]:
    """What this run does not tell, with the causes that it would decide between; most useful first."""
    seen, named = vitals.optimization, bool(vitals.groups)
    gaps = []
    if not seen.gradient_norm.count:
        gaps.append(
            "to tell the end of learning (noise_floor, capacity_limit) from a rate that is too low or too high, run with the agent: whether the gradient still points along the steps decides"
        )
    if math.isnan(vitals.rate.now):
        gaps.append("log the learning rate: without it nothing can be said of its schedule")
    if vitals.evaluation is None:
        gaps.append(
            "log an evaluation loss (Agent.log_eval), at least eight of them: it tells capacity_limit from over_regularized and label_noise"
        )
    if seen.gradient_norm.count and vitals.noise is None:
        gaps.append(
            "with two ranks or more, how far their gradients agree tells noise from signal (batch_too_small, noise_floor)"
        )
    if seen.gradient_norm.count and not named:
        gaps.append(
            "log the loss by group (Agent.log(groups=...)): it tells label_noise and group_stall from capacity_limit"
        )
    if seen.gradient_norm.count and not vitals.data.input_mean.count:
        gaps.append(
            "attach with input_statistics=True: it tells whether the data changed (distribution_shift)"
        )
    return tuple(gaps)
