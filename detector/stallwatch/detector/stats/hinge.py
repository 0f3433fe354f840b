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

from stallwatch.detector.stats.hinge_models import SMALLEST, TAILS, Curve, Fits, bases, fit_models, log_slopes
from stallwatch.detector.stats.student import student_cdfs, student_cdfs_interpolated

Floats = NDArray[np.float64]

_SHORTEST_TAIL, _LONGEST_TAIL = 0.08, 0.85
_COARSE_BREAKS, _FINE_BREAKS = 14, 8
_ONSETS = np.linspace(0.1, 1.0, 64)
"""Times at which a flat part may have begun; nothing before the first is fitted."""


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
        drop = (bases(now) - bases(then))[self.basis, 0]
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

    def expected_gains(self, horizons: Floats) -> Floats:
        """`expected_gain` at many horizons at once."""
        then = bases(1.0 + horizons)
        broken = self.tail >= 0
        share = np.bincount(self.basis[~broken], (self.weight * self.amplitude)[~broken], len(then))
        rate = float(self.weight[broken] @ self.rate[broken])
        return share @ (bases(np.ones(1)) - then) + rate * np.log1p(horizons)

    def gain_interval(self, horizon: float, extra: float = 0.0) -> tuple[float, float]:
        """95 % interval of the gain over the next `horizon`; `extra` is added to every model's standard error."""
        kept = (
            self.weight
            > max(1e-3, float(np.partition(self.weight, -24)[-24]) if len(self.weight) > 24 else 0.0) - 1e-12
        )
        share = self.weight[kept] / self.weight[kept].sum()
        mean, error = (values[kept] for values in self.gains(horizon))
        wide = np.sqrt(error**2 + self.level_error**2 + extra**2)
        wide = np.maximum(wide, 1e-12 * max(abs(self.level), 1e-300))
        grid = np.linspace(float(np.min(mean - 5 * wide)), float(np.max(mean + 5 * wide)), 129)
        below = share @ student_cdfs_interpolated(
            (grid[None, :] - mean[:, None]) / wide[:, None], self.degrees
        )
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
        at_break = bases(tau)[basis, np.arange(len(basis))]
        left = self.amplitude[broken, None] * (bases(_ONSETS)[basis] - at_break[:, None])
        first = np.argmax((left <= gain) | (tau[:, None] <= _ONSETS), axis=1)
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


def _refined_breaks(fits: Fits, tails: Floats) -> tuple[Floats, Floats]:
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
    curve = Curve(time, value - mean, share, gain, horizon, math.log(trend_prior), math.log1p(-trend_prior))
    coarse = np.geomspace(_SHORTEST_TAIL, _LONGEST_TAIL, _COARSE_BREAKS)
    located = fit_models(curve, 1.0 - coarse, np.full(len(coarse), -math.log(len(coarse))), TAILS[:1])
    lengths, log_prior = _refined_breaks(located, coarse)
    taus = 1.0 - lengths
    fits = fit_models(curve, taus, log_prior, TAILS)
    return _posterior(curve, mean, taus, fits)


def _posterior(curve: Curve, mean: float, taus: Floats, fits: Fits) -> HingePosterior:
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
    amplitude_error = np.sqrt(squares / np.maximum(spread * degrees, SMALLEST))
    kinds = np.array([row[0] for row in TAILS] + ["none"])[tail]
    sizes = np.array([row[1] for row in TAILS] + [0.0])[tail]
    old_slope = amplitude * log_slopes(taus)[basis, at]
    unit = curve.gain / math.log1p(curve.horizon)
    rate = np.where(kinds == "rate", sizes * unit, np.where(kinds == "share", sizes * old_slope, 0.0))
    now = mean + fits.now[basis, column]
    level = float(weight @ now)
    # The level now leans on the points after the break, or on those that bend the trend.
    leverage = np.sqrt(
        squares / degrees * (1.0 + fits.design_now[basis, column] ** 2 / np.maximum(spread, SMALLEST))
    )
    level_error = math.sqrt(float(weight @ ((now - level) ** 2 + leverage**2)))
    residual = math.sqrt(float(fits.squares.min()))
    return HingePosterior(
        weight, basis.astype(np.int64), amplitude, amplitude_error, tail.astype(np.int64), tau, rate, degrees, level,
        level_error, residual, fits.correlation,
    )  # fmt: skip
