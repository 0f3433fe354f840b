"""The causes of a stall: an explicit table, one file each."""

from __future__ import annotations

from stallwatch.detector.diagnosis.causes import (
    amp_overflow,
    amp_underflow,
    batch_too_small,
    capacity_limit,
    clipping_saturated,
    common_plateau,
    component_stall,
    data_shortfall,
    dead_units,
    distribution_shift,
    exploding_gradients,
    frozen_parameters,
    group_stall,
    label_noise,
    lr_too_high,
    lr_too_low,
    noise_floor,
    optimizer_starved,
    over_regularized,
    restart_regression,
    user_change,
    vanishing_gradients,
)
from stallwatch.detector.diagnosis.weighing import Weigh

CAUSES: dict[str, Weigh] = {
    each.KIND: each.weigh
    for each in (
        amp_overflow,
        amp_underflow,
        frozen_parameters,
        dead_units,
        vanishing_gradients,
        exploding_gradients,
        optimizer_starved,
        clipping_saturated,
        over_regularized,
        lr_too_low,
        lr_too_high,
        batch_too_small,
        restart_regression,
        data_shortfall,
        distribution_shift,
        user_change,
        component_stall,
        group_stall,
        label_noise,
        common_plateau,
        capacity_limit,
        noise_floor,
    )
}
STANDALONE: tuple[str, ...] = (
    "amp_overflow",
    "amp_underflow",
    "frozen_parameters",
    "dead_units",
    "vanishing_gradients",
    "exploding_gradients",
    "clipping_saturated",
    "restart_regression",
    "data_shortfall",
    "distribution_shift",
    "component_stall",
    "group_stall",
)
"""Causes that are findings of their own when their invariant is broken."""

__all__ = ["CAUSES", "STANDALONE"]
