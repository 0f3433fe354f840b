"""Other views of the question whether the loss still falls: the evaluation loss, and the learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from stallwatch.detector.signals.loss_fit import TRANSIENT, fit_recent, tail_share
from stallwatch.detector.signals.loss_scale import Scale, material_gain
from stallwatch.detector.stats.robust import noise_from_differences

if TYPE_CHECKING:
    from stallwatch.detector.signals.evaluations import EvaluationSeries
    from stallwatch.detector.signals.loss_config import LossConfig

DOUBT = 0.3
"""Below this probability by the training loss, nobody else is asked."""
SPENT_VIEW = 0.95
"""What a learning rate of next to nothing says by itself: steps in proportion to it lead nowhere."""
_OUT_OF_DATE = 0.15
"""An evaluation series that ends this share of the age ago says nothing of now."""


def second_opinion(
    series: EvaluationSeries, origin: int, age: int, horizon: float, config: LossConfig
) -> float | None:
    """Probability of a plateau by the evaluation loss alone; None where it has too few points or is out of date."""
    if len(series) < config.minimum_evaluations:
        return None
    steps, values, weights = series.arrays()
    relative = (steps + 1 - origin) / age
    kept = (relative > TRANSIENT) & (relative <= 1)
    if np.count_nonzero(kept) < config.minimum_evaluations or relative[kept][-1] < 1 - _OUT_OF_DATE:
        return None
    relative, weights = relative[kept], weights[kept]
    level, noise = float(np.mean(values[kept][-3:])), noise_from_differences(values[kept])
    scale = Scale(
        float(values[0]), level, noise, round(float(series.arrays()[2].sum())), sparse=True,
        positive=bool(values.min() > 0),
    )  # fmt: skip
    gain = material_gain(scale, config)
    posterior = fit_recent(relative, values[kept], weights, noise, gain, horizon / age, config.trend_prior)
    probability = posterior.probability_gain_below(gain, horizon / age)
    trend = series.trend_since(origin + (1 - tail_share(posterior)) * age)
    crawls = (
        trend is not None
        and -trend.slope * horizon > config.crawl_share * gain
        and trend.interval(0.9)[1] < 0
    )
    return min(probability, 0.5) if crawls else probability


def combine(training: float, *others: float | None) -> float:
    """Odds of several views of one question multiply; no other view overrules a training loss that falls."""
    views = [view for view in others if view is not None]
    if not views or training < DOUBT:
        return training
    odds = sum(math.log(p / (1 - p)) for p in map(_bounded, (training, *views)))
    return 1 / (1 + math.exp(-odds))


def _bounded(probability: float) -> float:
    """No view is surer than 50 to 1."""
    return min(max(probability, 0.02), 0.98)
