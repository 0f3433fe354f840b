"""Bayesian averaging of hinge models: what a loss curve will still give, and whether it has broken off its trend.

A model is a trend A + B g(t), B >= 0, followed up to now or up to a break at tau; g is one of a dozen decreasing bases
(linear, logarithmic, power laws, exponentials). After a break the curve is flat, or falls at a fixed small rate, or keeps a
fixed share of its old slope in log time. Without the slow tails the posterior is over-confident, because "flat" would be
the only alternative to "as before". Every (basis, break, tail) has a closed-form fit; its posterior weight is
prior * SSE ** (-effective points / 2), the effective points being discounted for AR(1) residuals.

Derived and measured in the project's design study (science, section 1.2); kin to Bayesian model averaging over change
points (Barry & Hartigan 1993) and to learning-curve extrapolation by a mixture of parametric families (Domhan et al. 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.stats.student import student_cdfs
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
_TAILS: tuple[tuple[str, float, float], ...] = (
    ("flat", 0.0, 0.30),
    ("rate", 1.5, 0.13),
    ("rate", 3.0, 0.13),
    ("rate", 6.0, 0.13),
    ("share", 0.1, 0.12),
    ("share", 0.3, 0.12),
    ("rate", -3.0, 0.04),
    ("rate", -10.0, 0.03),
)
_SHORTEST_TAIL, _LONGEST_TAIL = 0.08, 0.85
_COARSE_BREAKS, _FINE_BREAKS = 14, 8
_SMALLEST = 1e-200
_ONSETS = np.linspace(0.1, 1.0, 64)
"""Times at which a flat part may have begun; nothing before the first is fitted."""
_MISFIT_FLOOR = 0.1
"""Residuals below this share of the material gain do not speak for or against any model."""


def _bases(time: Floats) -> Floats:
    """Values of every basis at times relative to now, shape (bases, *time.shape); all decrease."""
    logarithm = np.log(time)
    power = np.exp(-_POWERS.reshape(-1, *[1] * time.ndim) * logarithm)
    exponential = np.exp(-time / _SCALES.reshape(-1, *[1] * time.ndim))
    return np.concatenate((-time[None], -logarithm[None], power, exponential))


def _log_slopes(time: Floats) -> Floats:
    """Minus the derivative of every basis by the logarithm of time, shape (bases, times)."""
    values = _bases(time)
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
class HingePosterior:
    """The mixture of all models, flattened: parallel arrays over the models that carry weight."""

    weight: Floats
    """Posterior probabilities, summing to 1."""
    basis: NDArray[np.int64]
    amplitude: Floats
    """B of the trend, in units of the loss."""
    amplitude_error: Floats
    tail: NDArray[np.int64]
    """-1: no break; otherwise which of the tails follows."""
    tau: Floats
    """Break, relative to now (1 = no break)."""
    rate: Floats
    """Gain per unit of log time after the break."""
    degrees: float
    level: float
    """The curve's value now."""
    level_error: float
    residual: float
    """Standard deviation of one point (of mean weight) around the best model."""
    correlation: float

    def gains(self, horizon: float) -> tuple[Floats, Floats]:
        """Mean and standard error of each model's gain over the next `horizon`, in times of the curve's age."""
        now, then = np.ones(1), np.full(1, 1.0 + horizon)
        drop = (_bases(now) - _bases(then))[self.basis, 0]
        broken = self.tail >= 0
        mean = np.where(broken, self.rate * math.log1p(horizon), self.amplitude * drop)
        error = np.where(broken, 0.0, np.abs(drop) * self.amplitude_error)
        return mean, error

    def probability_gain_below(self, gain: float, horizon: float) -> float:
        """Probability that the curve falls by less than `gain` over the next `horizon` (in times of its age)."""
        mean, error = self.gains(horizon)
        exact = error <= 0
        scaled = (gain - mean) / np.where(exact, 1.0, error)
        below = np.where(exact, (mean < gain).astype(float), student_cdfs(scaled, self.degrees))
        return float(self.weight @ below)

    def expected_gain(self, horizon: float) -> float:
        """Posterior mean of the gain over the next `horizon`."""
        return float(self.weight @ self.gains(horizon)[0])

    def gain_interval(self, horizon: float, extra: float = 0.0) -> tuple[float, float]:
        """95 % interval of the gain over the next `horizon`; `extra` is added to every model's standard error."""
        kept = self.weight > max(1e-3, float(np.partition(self.weight, -24)[-24]) if len(self.weight) > 24 else 0.0) - 1e-12
        share = self.weight[kept] / self.weight[kept].sum()
        mean, error = (values[kept] for values in self.gains(horizon))
        wide = np.sqrt(error**2 + self.level_error**2 + extra**2)
        wide = np.maximum(wide, 1e-12 * max(abs(self.level), 1e-300))
        grid = np.linspace(float(np.min(mean - 5 * wide)), float(np.max(mean + 5 * wide)), 129)
        below = share @ student_cdfs((grid[None, :] - mean[:, None]) / wide[:, None], self.degrees)
        return float(np.interp(0.025, below, grid)), float(np.interp(0.975, below, grid))

    def break_time(self) -> tuple[float, float]:
        """Posterior mean and standard deviation of the break, relative to now; (1, 0) when there surely is none."""
        broken = self.tail >= 0
        total = float(self.weight[broken].sum())
        if total <= 0:
            return 1.0, 0.0
        share = self.weight[broken] / total
        mean = float(share @ self.tau[broken])
        return mean, math.sqrt(max(float(share @ (self.tau[broken] - mean) ** 2), 0.0))

    def onset(self, gain: float) -> tuple[float, float]:
        """From when on less than `gain` was left to lose before the break: median and spread, relative to now.

        Where the break is says little when the trend before it is as flat: then the curve was flat from its start (0).
        """
        broken = self.tail >= 0
        total = float(self.weight[broken].sum())
        if total <= 0:
            return 1.0, 0.0
        share, basis, tau = self.weight[broken] / total, self.basis[broken], self.tau[broken]
        at_break = _bases(tau)[basis, np.arange(len(basis))]
        left = self.amplitude[broken, None] * (_bases(_ONSETS)[basis] - at_break[:, None])
        first = np.argmax((left <= gain) | (_ONSETS >= tau[:, None]), axis=1)
        onset = np.where(first == 0, 0.0, np.minimum(_ONSETS[first], tau))
        order = np.argsort(onset)
        middle = float(onset[order][np.searchsorted(np.cumsum(share[order]), 0.5)])
        return middle, math.sqrt(float(share @ (onset - middle) ** 2))

    def probability_flat(self) -> float:
        """Posterior probability of an exactly flat tail."""
        return float(self.weight[self.tail == 0].sum())

    def probability_unbroken(self) -> float:
        """Posterior probability that the curve follows its trend up to now."""
        return float(self.weight[self.tail < 0].sum())


@dataclass(frozen=True, slots=True)
class _Fits:
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
class _Curve:
    """The points of one fit: times relative to now, values around their mean, weights summing to 1."""

    time: Floats
    value: Floats
    weight: Floats
    gain: float
    horizon: float
    log_trend_prior: float
    log_break_prior: float


def _fit(curve: _Curve, taus: Floats, log_tau_prior: Floats, tails: tuple[tuple[str, float, float], ...]) -> _Fits:
    """Fit A and B >= 0 of every model by weighted least squares.

    A model's design column is the hinge h = g(min(t, tau)), less size * slope * e for a tail that keeps a share, with
    e = log(t / tau) after the break; a tail of fixed rate adds rate * e to the target instead. So the inner products of
    h, e and the values serve all tails, and the sums over points are taken once a (basis, break).
    """
    weight, value = curve.weight, curve.value
    breaks = np.append(taus, 1.0)  # a break now is no break
    hinge = _bases(np.minimum(curve.time[None, :], breaks[:, None]))
    beyond = np.log(np.maximum(curve.time[None, :] / breaks[:, None], 1.0))
    hinge_mean, beyond_mean = hinge @ weight, beyond @ weight
    hinge -= hinge_mean[..., None]
    beyond = beyond - beyond_mean[:, None]
    weighted = hinge * weight
    hinge_hinge = np.einsum("btm,btm->bt", weighted, hinge)
    hinge_beyond = np.einsum("btm,tm->bt", weighted, beyond)
    hinge_value = weighted @ value
    beyond_beyond = (beyond * beyond) @ weight
    beyond_value = beyond @ (weight * value)
    value_value = float(weight @ (value * value))
    slopes = _log_slopes(breaks)
    hinge_now = _bases(breaks) - hinge_mean
    beyond_now = -np.log(breaks) - beyond_mean
    unit = curve.gain / math.log1p(curve.horizon)

    spread, cross = [hinge_hinge[:, -1:]], [hinge_value[:, -1:]]
    total, now = [np.full((1, 1), value_value)], [np.zeros((1, 1))]
    design_now, priors = [hinge_now[:, -1:]], [np.array([curve.log_trend_prior])]
    cut = slice(0, len(taus))
    for kind, size, prior in tails:
        if kind == "share":
            bend = size * slopes[:, cut]
            both, alone = bend * hinge_beyond[:, cut], bend * bend * beyond_beyond[cut]
            spread.append(hinge_hinge[:, cut] - 2 * both + alone)
            cross.append(hinge_value[:, cut] - bend * beyond_value[cut])
            total.append(np.full((1, len(taus)), value_value))
            now.append(np.zeros((1, len(taus))))
            design_now.append(hinge_now[:, cut] - bend * beyond_now[cut])
        else:
            rate = size * unit
            spread.append(hinge_hinge[:, cut])
            cross.append(hinge_value[:, cut] + rate * hinge_beyond[:, cut])
            total.append((value_value + 2 * rate * beyond_value[cut] + rate * rate * beyond_beyond[cut])[None])
            now.append(-rate * beyond_now[cut][None])
            design_now.append(hinge_now[:, cut])
        priors.append(log_tau_prior + curve.log_break_prior + math.log(prior))

    spreads, crosses, now_design = (np.concatenate(parts, axis=1) for parts in (spread, cross, design_now))
    amplitude = np.maximum(crosses / np.maximum(spreads, _SMALLEST), 0.0)
    floor = (_MISFIT_FLOOR * curve.gain) ** 2
    squares = np.maximum(np.concatenate(total, axis=1) - amplitude * crosses, 0.0) + floor
    basis, column = np.unravel_index(int(np.argmin(squares)), squares.shape)
    at = -1 if column == 0 else int(column - 1) % len(taus)
    kind, size, _ = ("flat", 0.0, 1.0) if column == 0 else tails[int(column - 1) // len(taus)]
    best = float(amplitude[basis, column])
    residuals = value - best * hinge[basis, at]
    residuals += beyond[at] * (size * unit if kind != "share" else best * size * float(slopes[basis, at]))
    correlation = lag_one_correlation(residuals * np.sqrt(weight), 3)
    effective = max(4.0, 1.0 / float(weight @ weight) / variance_inflation(correlation))
    log_weight = -0.5 * effective * np.log(squares / squares[basis, column]) + np.concatenate(priors)[None, :]
    log_weight += _LOG_BASIS_PRIOR[:, None]
    value_now = np.concatenate(now, axis=1) + amplitude * now_design
    return _Fits(log_weight, amplitude, spreads, squares, value_now, now_design, correlation, effective)


def _refined_breaks(fits: _Fits, tails: Floats) -> tuple[Floats, Floats]:
    """The coarse breaks and finer ones around the best: an off-grid corner would look like a slow tail."""
    best = int(np.argmin(fits.squares[:, 1:].min(axis=0)))
    spacing = math.log(_LONGEST_TAIL / _SHORTEST_TAIL) / (len(tails) - 1)
    fine = tails[best] * np.exp(np.linspace(-1.2, 1.2, _FINE_BREAKS) * spacing)
    union = np.unique(np.concatenate((tails, np.clip(fine, 0.9 * _SHORTEST_TAIL, 0.93))))
    share = np.gradient(np.log(union))
    return union, np.log(share / share.sum())


def fit_hinges(
    time: Floats,
    value: Floats,
    weight: Floats,
    gain: float,
    horizon: float,
    trend_prior: float = 0.7,
) -> HingePosterior:
    """Average all hinge models over one curve.

    Args:
        time: Position of each point relative to now, in (0, 1], ascending, shape (points,).
        value: The loss there.
        weight: How many observations stand behind each point.
        gain: The material gain: the smallest improvement that matters, in units of the loss; above 0.
        horizon: Over which that gain counts, in times of the curve's age.
        trend_prior: Prior probability that the curve has not broken off its trend.
    """
    share = weight / weight.sum()
    mean = float(share @ value)
    curve = _Curve(
        time, value - mean, share, gain, horizon, math.log(trend_prior), math.log1p(-trend_prior)
    )
    coarse = np.geomspace(_SHORTEST_TAIL, _LONGEST_TAIL, _COARSE_BREAKS)
    located = _fit(curve, 1.0 - coarse, np.full(len(coarse), -math.log(len(coarse))), _TAILS[:1])
    lengths, log_prior = _refined_breaks(located, coarse)
    taus = 1.0 - lengths
    fits = _fit(curve, taus, log_prior, _TAILS)
    return _posterior(curve, mean, taus, fits)


def _posterior(curve: _Curve, mean: float, taus: Floats, fits: _Fits) -> HingePosterior:
    """Normalise, keep the models that carry weight, and derive what each says about now and later."""
    probability = np.exp(fits.log_weight - fits.log_weight.max())
    probability /= probability.sum()
    basis, column = np.nonzero(probability > 1e-5)
    weight = probability[basis, column]
    weight = weight / weight.sum()
    breaks = len(taus)
    tail = np.where(column == 0, -1, (column - 1) // breaks)
    at = np.where(column == 0, 0, (column - 1) % breaks)
    tau = np.where(column == 0, 1.0, taus[at])
    amplitude = fits.amplitude[basis, column]
    degrees = max(2.0, fits.effective - 3.0)
    spread, squares = fits.spread[basis, column], fits.squares[basis, column]
    amplitude_error = np.sqrt(squares / np.maximum(spread * degrees, _SMALLEST))
    kinds = np.array([row[0] for row in _TAILS] + ["none"])[tail]
    sizes = np.array([row[1] for row in _TAILS] + [0.0])[tail]
    old_slope = amplitude * _log_slopes(taus)[basis, at]
    unit = curve.gain / math.log1p(curve.horizon)
    rate = np.where(kinds == "rate", sizes * unit, np.where(kinds == "share", sizes * old_slope, 0.0))
    now = mean + fits.now[basis, column]
    level = float(weight @ now)
    # The level now leans on the points after the break, or on those that bend the trend.
    leverage = np.sqrt(squares / degrees * (1.0 + fits.design_now[basis, column] ** 2 / np.maximum(spread, _SMALLEST)))
    level_error = math.sqrt(float(weight @ ((now - level) ** 2 + leverage**2)))
    residual = math.sqrt(float(fits.squares.min()))
    return HingePosterior(
        weight, basis.astype(np.int64), amplitude, amplitude_error, tail.astype(np.int64), tau, rate, degrees, level,
        level_error, residual, fits.correlation,
    )  # fmt: skip
