"""The models that `hinge` averages: bases of a trend, tails after a break, and their closed-form fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.stats.trend import lag_one_correlation, variance_inflation

Floats = NDArray[np.float64]

# (family, parameter, prior weight). Fast-saturating bases say "already converged on its own trend": little prior.
_BASES: tuple[tuple[str, float, float], ...] = (
    ("linear", 0.0, 1.0),
    ("log", 0.0, 1.0),
    ("power", 0.1, 1.0),
    ("power", 0.25, 1.0),
    ("power", 0.5, 1.0),
    ("power", 0.8, 0.7),
    ("power", 1.2, 0.4),
    ("power", 2.0, 0.2),
    ("exponential", 0.08, 0.05),
    ("exponential", 0.15, 0.1),
    ("exponential", 0.3, 0.3),
    ("exponential", 0.6, 1.0),
)
_LOG_BASIS_PRIOR = np.log([row[2] for row in _BASES]) - math.log(sum(row[2] for row in _BASES))
_POWERS = np.array([row[1] for row in _BASES if row[0] == "power"])
_SCALES = np.array([row[1] for row in _BASES if row[0] == "exponential"])

# (kind, size, prior weight) of what follows a break: a rate in units of the material gain per horizon, or a share of the
# old slope in log time.
TAILS: tuple[tuple[str, float, float], ...] = (
    ("flat", 0.0, 0.30),
    ("rate", 1.5, 0.13),
    ("rate", 3.0, 0.13),
    ("rate", 6.0, 0.13),
    ("share", 0.1, 0.12),
    ("share", 0.3, 0.12),
    ("rate", -3.0, 0.04),
    ("rate", -10.0, 0.03),
)
SMALLEST = 1e-200
_MISFIT_FLOOR = 0.1
"""Residuals below this share of the material gain do not speak for or against any model."""


def bases(time: Floats) -> Floats:
    """Values of every basis at times relative to now, shape (bases, *time.shape); all decrease."""
    logarithm = np.log(time)
    power = np.exp(-_POWERS.reshape(-1, *[1] * time.ndim) * logarithm)
    exponential = np.exp(-time / _SCALES.reshape(-1, *[1] * time.ndim))
    return np.concatenate((-time[None], -logarithm[None], power, exponential))


def log_slopes(time: Floats) -> Floats:
    """Minus the derivative of every basis by the logarithm of time, shape (bases, times)."""
    values = bases(time)
    powers, exponentials = values[2 : 2 + len(_POWERS)], values[2 + len(_POWERS) :]
    return np.concatenate(
        (
            time[None],
            np.ones_like(time)[None],
            _POWERS[:, None] * powers,
            time / _SCALES[:, None] * exponentials,
        )
    )


@dataclass(frozen=True, slots=True)
class Fits:
    """Closed-form fits of every model; arrays of shape (bases, 1 + tails * breaks), the first column unbroken."""

    log_weight: Floats
    amplitude: Floats
    spread: Floats
    """Weighted variance of the design column."""
    squares: Floats
    now: Floats
    """The curve's value now, relative to the mean of the points."""
    design_now: Floats
    """The centred design column's value now."""
    correlation: float
    effective: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one fit: times relative to now, values around their mean, weights summing to 1."""

    time: Floats
    value: Floats
    weight: Floats
    gain: float
    horizon: float
    log_trend_prior: float
    log_break_prior: float


@dataclass(frozen=True, slots=True)
class _Products:
    """Inner products over the points of the centred hinge h, of e = log(t / tau) after the break, and of the values.

    Arrays over (bases, breaks) or (breaks,); the last break is now, which is no break.
    """

    hinge: Floats
    """h itself, shape (bases, breaks, points)."""
    beyond: Floats
    """e itself, shape (breaks, points)."""
    hinge_hinge: Floats
    hinge_beyond: Floats
    hinge_value: Floats
    beyond_beyond: Floats
    beyond_value: Floats
    value_value: float
    slopes: Floats
    """Minus the derivative of each basis by log time at the break."""
    hinge_now: Floats
    beyond_now: Floats


def _products(curve: Curve, taus: Floats) -> _Products:
    weight, value = curve.weight, curve.value
    breaks = np.append(taus, 1.0)
    hinge = bases(np.minimum(curve.time[None, :], breaks[:, None]))
    beyond = np.log(np.maximum(curve.time[None, :] / breaks[:, None], 1.0))
    hinge_mean, beyond_mean = hinge @ weight, beyond @ weight
    hinge -= hinge_mean[..., None]
    beyond -= beyond_mean[:, None]
    weighted = hinge * weight
    return _Products(
        hinge=hinge,
        beyond=beyond,
        hinge_hinge=np.einsum("btm,btm->bt", weighted, hinge),
        hinge_beyond=np.einsum("btm,tm->bt", weighted, beyond),
        hinge_value=weighted @ value,
        beyond_beyond=(beyond * beyond) @ weight,
        beyond_value=beyond @ (weight * value),
        value_value=float(weight @ (value * value)),
        slopes=log_slopes(breaks),
        hinge_now=bases(breaks) - hinge_mean,
        beyond_now=-np.log(breaks) - beyond_mean,
    )


def _column(
    parts: _Products, kind: str, size: float, cut: slice
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """One tail over some breaks: spread, cross product, total square, shift now, design now."""
    hinge_hinge, hinge_value = parts.hinge_hinge[:, cut], parts.hinge_value[:, cut]
    beyond_now, value = parts.beyond_now[cut], np.full((1, len(parts.beyond_now[cut])), parts.value_value)
    none = np.zeros_like(value)
    if kind == "flat":
        return hinge_hinge, hinge_value, value, none, parts.hinge_now[:, cut]
    if kind == "share":
        bend = size * parts.slopes[:, cut]
        spread = hinge_hinge - 2 * bend * parts.hinge_beyond[:, cut] + bend * bend * parts.beyond_beyond[cut]
        cross = hinge_value - bend * parts.beyond_value[cut]
        return spread, cross, value, none, parts.hinge_now[:, cut] - bend * beyond_now
    cross = hinge_value + size * parts.hinge_beyond[:, cut]
    total = value + 2 * size * parts.beyond_value[cut] + size * size * parts.beyond_beyond[cut]
    return hinge_hinge, cross, total, none - size * beyond_now, parts.hinge_now[:, cut]


def fit_models(
    curve: Curve, taus: Floats, log_tau_prior: Floats, tails: tuple[tuple[str, float, float], ...]
) -> Fits:
    """Fit A and B >= 0 of every model by weighted least squares.

    A model's design column is the hinge h = g(min(t, tau)), less size * slope * e for a tail that keeps a share, with
    e = log(t / tau) after the break; a tail of fixed rate adds rate * e to the target instead. So the inner products of
    h, e and the values serve all tails, and the sums over points are taken once a (basis, break).
    """
    parts = _products(curve, taus)
    unit = curve.gain / math.log1p(curve.horizon)
    columns = [_column(parts, "flat", 0.0, slice(len(taus), None))]
    columns += [
        _column(parts, kind, size * unit if kind == "rate" else size, slice(0, len(taus)))
        for kind, size, _ in tails
    ]
    spread, cross, total, now, design_now = (
        np.concatenate(each, axis=1) for each in zip(*columns, strict=True)
    )
    priors = [np.array([curve.log_trend_prior])]
    priors += [log_tau_prior + curve.log_break_prior + math.log(prior) for _, _, prior in tails]

    amplitude = np.maximum(cross / np.maximum(spread, SMALLEST), 0.0)
    squares = np.maximum(total - amplitude * cross, 0.0) + (_MISFIT_FLOOR * curve.gain) ** 2
    basis, column = np.unravel_index(int(np.argmin(squares)), squares.shape)
    at = -1 if column == 0 else int(column - 1) % len(taus)
    kind, size, _ = ("flat", 0.0, 1.0) if column == 0 else tails[int(column - 1) // len(taus)]
    best = float(amplitude[basis, column])
    bend = best * size * float(parts.slopes[basis, at]) if kind == "share" else size * unit
    residuals = curve.value - best * parts.hinge[basis, at] + bend * parts.beyond[at]
    correlation = lag_one_correlation(residuals * np.sqrt(curve.weight), 3)
    effective = max(4.0, 1.0 / float(curve.weight @ curve.weight) / variance_inflation(correlation))
    log_weight = -0.5 * effective * np.log(squares / squares[basis, column]) + np.concatenate(priors)[None, :]
    log_weight += _LOG_BASIS_PRIOR[:, None]
    value_now = now + amplitude * design_now
    return Fits(log_weight, amplitude, spread, squares, value_now, design_now, correlation, effective)
