"""One look at the loss: fits, probabilities and tests, before any decision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.signals.loss_fit import (
    TAIL_SHARES,
    TRANSIENT,
    fit_recent,
    grid,
    tail_share,
    window_trend,
)
from stallwatch.detector.signals.loss_opinions import DOUBT, SPENT_VIEW, combine, second_opinion
from stallwatch.detector.signals.loss_rise import find_rise
from stallwatch.detector.signals.loss_scale import Scale, material_gain
from stallwatch.detector.stats.hinge import HingePosterior
from stallwatch.detector.stats.oscillation import Swing, find_swing
from stallwatch.detector.stats.robust import noise_from_differences
from stallwatch.detector.stats.trend import Trend, fit_trend

if TYPE_CHECKING:
    from stallwatch.detector.signals.loss import LossSignal
    from stallwatch.detector.signals.loss_config import LossConfig

Floats = NDArray[np.float64]

_SPARSE = 5
"""From this many steps between points on, a point stands for several optimizer steps."""
_SWING_BLOCKS = 48
_SURELY = 4.0
"""Standard errors beyond which one of some 50 differences is no accident."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one look found. Losses in units of the loss, times in steps."""

    step: int
    age: int
    """Steps since the settings last changed."""
    run_age: int
    """Steps since the run began."""
    horizon: int
    gain: float
    """The material gain over the horizon."""
    crawl: float
    """Improvement over the horizon that, where it is certain, is no plateau, however small."""
    posterior: HingePosterior
    plateau_probability: float
    training_probability: float
    """The same by the training loss alone."""
    evaluation_probability: float | None
    """... and by the evaluation loss alone, where there is one."""
    expected_gain: float
    trend: Trend
    """Line through the latest half."""
    after_break: Trend | None
    """Line through what follows the estimated break."""
    latest: Trend | None
    """Line through the latest eighth."""
    noise: float
    block_noise: float
    best: float
    rise: float
    rise_sigma: float
    rising: bool
    swing: Swing | None
    alternating: float
    """Lag-1 correlation of the raw values around their median; strongly negative when they bounce."""
    level: float
    origin: int
    settled: int
    """Steps since the learning rate was last raised; the run's age when it never was."""
    rise_from: int
    """The last step at which the loss was not surely above its best level."""
    above_until: int
    """Up to here the loss lay surely above what it is now; `origin` when it never did."""

    def gain_interval(self, steps: int, config: LossConfig) -> tuple[float, float]:
        """95 % interval of the improvement over the next `steps`, in units of the loss.

        A fitted curve knows its own errors, not that schedules and data change; real curves stray from any fitted
        course by about as much as they moved lately, and by a little of their size.
        """
        moved = abs(self.trend.slope) * self.trend.span
        stray = config.stray_share * moved + config.drift_share * abs(self.level)
        ahead = steps / self.age
        return self.posterior.gain_interval(ahead, stray * math.log1p(ahead))


def look(signal: LossSignal) -> Evidence | None:
    """Fit everything at the latest step; None while the blocks are too few."""
    config, history, origin = signal.config, signal.history, signal.origin
    stop = history.last + 1
    age, run_age = stop - origin, stop - history.first
    rows = grid(history, origin, origin + math.floor(TRANSIENT * age), stop)
    if len(rows) < config.minimum_points:
        return None
    steps, values, weights = rows.T
    first = float(np.median(signal.first_values))
    level = float(np.mean(values[-max(3, len(values) // 12) :]))
    noise = noise_from_differences(values)
    sparse = run_age >= _SPARSE * history.count
    scale = Scale(first, level, noise, history.count, sparse=sparse, positive=bool(values.min() > 0))
    gain = material_gain(scale, config)
    horizon = config.horizon_share * max(age, 0.5 * run_age)
    if config.total_steps:
        horizon = max(horizon, 0.1 * config.total_steps)
    ahead = horizon / age
    posterior = fit_recent(
        (steps + 1 - origin) / age, values, weights, noise, gain, ahead, config.trend_prior
    )
    trends = {share: window_trend(history, stop, share * age) for share in TAIL_SHARES}
    half = trends[TAIL_SHARES[-1]] or fit_trend(steps, values)
    if half is None:
        return None
    alone = posterior.probability_gain_below(gain, ahead)
    asked = alone >= DOUBT
    evaluation = second_opinion(signal.evaluations, origin, age, horizon, config) if asked else None
    spent = signal.rates.spent(history.last, config.hold_share * run_age)
    smooth = np.convolve(values, np.ones(3) / 3, "valid")
    lowest = int(np.argmin(smooth))
    rise = find_rise(history, age, first, float(smooth[lowest]), gain, posterior, trends)
    unsure = _SURELY * noise / math.sqrt(3)
    raw = np.array(signal.recent.values[-signal.recent.size :])
    return Evidence(
        step=history.last,
        age=age,
        run_age=run_age,
        horizon=max(1, round(horizon)),
        gain=gain,
        crawl=config.crawl_share * gain,
        posterior=posterior,
        plateau_probability=combine(alone, evaluation, SPENT_VIEW if spent else None),
        training_probability=alone,
        evaluation_probability=evaluation,
        expected_gain=posterior.expected_gain(ahead),
        trend=half,
        after_break=window_trend(history, stop, tail_share(posterior) * age),
        latest=trends[TAIL_SHARES[0]],
        noise=noise_from_differences(raw),
        block_noise=noise,
        best=rise.best,
        rise=rise.size,
        rise_sigma=rise.sigma,
        rising=rise.diverges,
        swing=find_swing(steps[-_SWING_BLOCKS:], values[-_SWING_BLOCKS:], 2 * gain),
        alternating=_alternation(raw),
        level=level,
        origin=origin,
        settled=history.last - max(signal.rates.raised_at, history.first - 1),
        rise_from=round(float(steps[1 + np.flatnonzero(smooth <= smooth[lowest] + unsure)[-1]])),
        above_until=_above_until(rows, level, first, gain, noise, origin),
    )


def _above_until(rows: Floats, level: float, first: float, gain: float, noise: float, origin: int) -> int:
    """The last step around which three blocks lay surely above the level of now."""
    limit = level + max(gain, _SURELY * noise / math.sqrt(3))
    above = np.flatnonzero(np.convolve(rows[:, 1], np.ones(3) / 3, "valid") > limit)
    if len(above):
        return round(float(rows[above[-1] + 1, 0]))
    # What came before the fitted part is known by the first points alone.
    return round(float(rows[0, 0])) if first > level + max(gain, _SURELY * noise) else origin


def _alternation(raw: Floats) -> float:
    """Lag-1 correlation of clipped deviations from the median; 0 with fewer than 64 values."""
    if len(raw) < 64:
        return 0.0
    deviation = raw - np.median(raw)
    limit = 6 * float(np.median(np.abs(deviation)))
    deviation = np.clip(deviation, -limit, limit)
    power = float(deviation @ deviation)
    return float(deviation[1:] @ deviation[:-1]) / power if power > 0 else 0.0
