"""One look at the loss: fits, probabilities and tests, before any decision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.stats.hinge import HingePosterior, fit_hinges
from stallwatch.detector.stats.oscillation import Swing, find_swing
from stallwatch.detector.stats.robust import noise_from_differences
from stallwatch.detector.stats.student import student_quantile
from stallwatch.detector.stats.trend import Trend, fit_trend, variance_inflation

if TYPE_CHECKING:
    from stallwatch.detector.signals.history import BlockHistory
    from stallwatch.detector.signals.loss import LossSignal
    from stallwatch.detector.signals.loss_config import LossConfig

Floats = NDArray[np.float64]

_BLOCKS = 64
_TRANSIENT = 0.1
"""Share of the age left out at the start, where the curve is steepest and says least about the future."""
_DOUBT = 0.3
"""Below this probability by the training loss, the evaluation loss is not asked."""
_OUT_OF_DATE = 0.15
"""An evaluation series that ends this share of the age ago says nothing of now."""
_LATE = 0.5
_MISFIT = 1.25
"""Residuals this much larger than the noise between neighbours show a curve with more bends than the model has."""
_BENT = 0.3
"""... and so does a correlation of neighbouring residuals above this."""
_TAIL_SHARES = (0.125, 0.25, 0.5)


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
    best_step: int
    """Where the best level was."""

    def gain_interval(self, steps: int, config: LossConfig) -> tuple[float, float]:
        """95 % interval of the improvement over the next `steps`, in units of the loss.

        A fitted curve knows its own errors, not that schedules and data change: `drift_share` widens the interval.
        """
        ahead = steps / self.age
        extra = config.drift_share * self.drift_scale * math.log1p(steps / self.run_age)
        return self.posterior.gain_interval(ahead, extra)

    @property
    def drift_scale(self) -> float:
        """The loss itself, as the size that a change of course is measured by."""
        return abs(self.level)


def grid(history: BlockHistory, origin: int, start: int, stop: int) -> Floats:
    """Block means of [start, stop): the older half of the age coarse, the recent half finer; rows (step, value, weight)."""
    age = stop - origin
    coarse = history.level_for(age, _BLOCKS)
    fine = history.level_for(max(age // 2, 1), _BLOCKS)
    if fine >= coarse:
        return history.blocks(coarse, start, stop)
    half = (stop - age // 2) >> coarse << coarse
    older = history.blocks(coarse, start, half) if start < half else np.zeros((0, 3))
    return np.concatenate((older, history.blocks(fine, max(half, start), stop)))


def window(history: BlockHistory, stop: int, steps: int) -> Floats:
    """Block means of the last `steps` steps, 20 to 40 of them where the points suffice."""
    level = history.level_for(steps, 40)
    return history.blocks(level, stop - steps, stop)


@dataclass(frozen=True, slots=True)
class Scale:
    """What a series is measured by."""

    first: float
    """Where it came from."""
    level: float
    noise: float
    """Standard deviation of one of its fitted points."""
    points: int
    """Points behind the whole series."""
    positive: bool
    """Whether no value was ever negative, so that a share of the level means something."""


def material_gain(scale: Scale, config: LossConfig) -> float:
    """The smallest improvement over the horizon that counts as learning."""
    size = abs(scale.level) if scale.positive else math.inf
    extent = min(abs(scale.first - scale.level), size)
    unresolved = config.noise_share * scale.noise
    if math.isfinite(size):
        share = max(config.trifle_share, config.level_share * min(1.0, config.few_points / scale.points))
        unresolved = min(max(unresolved, config.trifle_share * size), share * size)
    # Few but precise points (epoch means) are judged at what they can resolve; noise is no licence for that.
    material = config.material_share * extent
    relaxed = material * (1 + config.few_points / scale.points)
    relaxed *= min(1.0, relaxed / max(scale.noise, 1e-300))
    return max(material, relaxed, unresolved, 1e-12 * abs(scale.level), 1e-90)


def fit_recent(
    relative: Floats, values: Floats, weights: Floats, noise: float, gain: float, ahead: float, prior: float
) -> HingePosterior:
    """Fit the whole curve, or its later half where one hinge does not explain it all."""
    posterior = fit_hinges(relative, values, weights, gain, ahead, prior)
    late = relative >= _LATE
    bent = posterior.residual > _MISFIT * noise or posterior.correlation > _BENT
    if bent and np.count_nonzero(late) >= 16:
        return fit_hinges(relative[late], values[late], weights[late], gain, ahead, prior)
    return posterior


def second_opinion(signal: LossSignal, stop: int, age: int, horizon: float) -> float | None:
    """Probability of a plateau by the evaluation loss alone; None where it has too few points or is out of date."""
    config, series = signal.config, signal.evaluations
    if len(series) < config.minimum_evaluations:
        return None
    steps, values, weights = series.arrays()
    relative = (steps + 1 - signal.origin) / age
    kept = (relative > _TRANSIENT) & (relative <= 1)
    if np.count_nonzero(kept) < config.minimum_evaluations or relative[kept][-1] < 1 - _OUT_OF_DATE:
        return None
    relative, weights = relative[kept], weights[kept]
    level, noise = float(np.mean(values[kept][-3:])), noise_from_differences(values[kept])
    scale = Scale(float(values[0]), level, noise, round(float(series.arrays()[2].sum())), bool(values.min() > 0))
    gain = material_gain(scale, config)
    posterior = fit_recent(relative, values[kept], weights, noise, gain, horizon / age, config.trend_prior)
    probability = posterior.probability_gain_below(gain, horizon / age)
    trend = series.trend_since(signal.origin + (1 - _tail(posterior)) * age)
    crawls = (
        trend is not None and -trend.slope * horizon > config.crawl_share * gain and trend.interval(0.9)[1] < 0
    )
    return min(probability, 0.5) if crawls else probability


def _tail(posterior: HingePosterior) -> float:
    """Which latest share of the age to look at for what the curve does after its break."""
    if posterior.probability_unbroken() > 0.5:
        return _TAIL_SHARES[-1]
    return min(0.8, max(0.12, 0.85 * (1 - posterior.break_time()[0])))


def combine(training: float, evaluation: float | None) -> float:
    """Odds of two views of one question multiply; the evaluation loss does not overrule a training loss that falls."""
    if evaluation is None or training < _DOUBT:
        return training
    odds = sum(math.log(p / (1 - p)) for p in (_bounded(training), _bounded(evaluation)))
    return 1 / (1 + math.exp(-odds))


def _bounded(probability: float) -> float:
    """No view is surer than 50 to 1."""
    return min(max(probability, 0.02), 0.98)


def look(signal: LossSignal) -> Evidence | None:
    """Fit everything at the latest step; None while the blocks are too few."""
    config, history = signal.config, signal.history
    stop = history.last + 1
    age, run_age = stop - signal.origin, stop - history.first
    rows = grid(history, signal.origin, signal.origin + math.floor(_TRANSIENT * age), stop)
    if len(rows) < 8:
        return None
    steps, values, weights = rows.T
    level = float(np.mean(values[-max(3, len(values) // 12) :]))
    block_noise = noise_from_differences(values)
    scale = Scale(
        float(np.median(signal.first_values)), level, block_noise, history.count, positive=signal.lowest > 0
    )
    gain = material_gain(scale, config)
    horizon = config.horizon_share * max(age, 0.5 * run_age)
    if config.total_steps:
        horizon = max(horizon, 0.1 * config.total_steps)
    relative = (steps + 1 - signal.origin) / age
    posterior = fit_recent(relative, values, weights, block_noise, gain, horizon / age, config.trend_prior)
    alone = posterior.probability_gain_below(gain, horizon / age)
    evaluation = second_opinion(signal, stop, age, horizon) if alone >= _DOUBT else None
    trends = {share: _trend(window(history, stop, max(8, math.floor(share * age)))) for share in _TAIL_SHARES}
    half = trends[0.5] or fit_trend(steps, values)
    if half is None:
        return None
    tail = _tail(posterior)
    smooth = np.convolve(values, np.ones(3) / 3, "valid")
    lowest = int(np.argmin(smooth))
    best = float(smooth[lowest])
    rise, rise_sigma, rising = _rise(signal, stop, age, gain, best, posterior.correlation, trends)
    raw = np.array(signal.recent.values[-256:])
    return Evidence(
        step=history.last, age=age, run_age=run_age, horizon=max(1, round(horizon)), gain=gain, crawl=config.crawl_share * gain,
        posterior=posterior,
        plateau_probability=combine(alone, evaluation), training_probability=alone, evaluation_probability=evaluation,
        expected_gain=posterior.expected_gain(horizon / age), trend=half,
        after_break=_trend(window(history, stop, max(8, math.floor(tail * age)))),
        latest=trends[_TAIL_SHARES[0]], noise=noise_from_differences(raw), block_noise=block_noise, best=best, rise=rise, rise_sigma=rise_sigma,
        rising=rising, swing=find_swing(steps[-48:], values[-48:], 2 * gain), alternating=_alternation(raw), level=level,
        origin=signal.origin, settled=history.last - max(signal.rates.raised_at, history.first - 1), best_step=round(float(steps[lowest + 1])),
    )  # fmt: skip


def _trend(rows: Floats) -> Trend | None:
    return fit_trend(rows[:, 0], rows[:, 1], rows[:, 2]) if len(rows) else None


def _alternation(raw: Floats) -> float:
    """Lag-1 correlation of clipped deviations from the median; 0 with fewer than 64 values."""
    if len(raw) < 64:
        return 0.0
    deviation = raw - np.median(raw)
    limit = 6 * float(np.median(np.abs(deviation)))
    deviation = np.clip(deviation, -limit, limit)
    power = float(deviation @ deviation)
    return float(deviation[1:] @ deviation[:-1]) / power if power > 0 else 0.0


def _rise(
    signal: LossSignal,
    stop: int,
    age: int,
    gain: float,
    best: float,
    correlation: float,
    trends: dict[float, Trend | None],
) -> tuple[float, float, bool]:
    """How far the latest eighth stands above the best level, in units and in errors, and whether that is a divergence."""
    rows = window(signal.history, stop, max(8, math.floor(0.125 * age)))
    wide = window(signal.history, stop, max(8, math.floor(0.5 * age)))
    if len(rows) < 6 or len(wide) < 8:
        return 0.0, 0.0, False
    values = rows[:, 1]
    # Noise of these narrower blocks, from the wider ones.
    scale = math.sqrt(float(np.median(wide[:, 2])) / max(float(np.median(rows[:, 2])), 1e-300))
    noise = max(noise_from_differences(wide[:, 1]) * scale, 1e-9 * gain)
    inflation = math.sqrt(variance_inflation(correlation))
    half = max(2, len(values) // 2)
    rise = float(np.mean(values[-half:])) - best
    error = noise * inflation * math.sqrt(1 / half + 1 / 3)
    recovering = float(np.mean(values[:half])) - float(np.mean(values[-half:]))
    progress = abs(float(np.median(signal.first_values)) - best)
    jump = (
        rise > 7 * error
        and rise > max(2 * gain, 0.05 * progress)
        and recovering < 2 * noise * inflation * math.sqrt(2 / half)
    )
    looks = max(1.0, math.log(max(age, 12) / 12) / math.log(1.5) + 1)
    level = 0.01 / (4.5 * looks)
    latest = trends[_TAIL_SHARES[0]]
    falling = latest is not None and latest.interval(0.9)[1] < 0
    climbing = not falling and any(
        trend is not None
        and trend.slope > student_quantile(1 - level, trend.degrees) * trend.error
        and trend.slope * trend.span > 2 * gain
        and rise > max(2 * gain, 4 * error)
        for trend in trends.values()
    )
    return rise, rise / error, jump or climbing
