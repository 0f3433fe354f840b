"""The assessment of a look, and its sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from stallwatch.detector.core.learning import LossAssessment, LossForecast

if TYPE_CHECKING:
    from stallwatch.detector.signals.loss import LossSignal
    from stallwatch.detector.signals.loss_look import Evidence

_AHEAD = np.expm1(np.linspace(0.0, math.log(11.0), 256))
"""Horizons up to ten times the age, evenly spaced in log time, in which courses are about straight."""


def number(value: float) -> str:
    """Four significant digits, thousands grouped."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(share: float) -> str:
    """A share as percent with two significant digits."""
    value = 100 * share
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.005:
        return "0"
    return f"{value:.2g}"


def forecast_of(signal: LossSignal, evidence: Evidence) -> LossForecast:
    """Improvement over the horizon as shares of the loss now."""
    low, high = evidence.gain_interval(evidence.horizon, signal.config)
    size = max(abs(evidence.level), 1e-300)
    return LossForecast(evidence.horizon, evidence.expected_gain / size, low / size, high / size)


def _forecast_words(forecast: LossForecast) -> str:
    return (
        f"{percent(forecast.relative_improvement)} % more is to be expected in the next {forecast.horizon_steps:,} steps "
        f"(95 %: {percent(forecast.low)} to {percent(forecast.high)} %)"
    )


def reason_of(state: str, since: int, evidence: Evidence, forecast: LossForecast, rate: float | None) -> str:
    """One sentence with the numbers behind the state."""
    level = number(evidence.level)
    if state == "warming_up":
        return f"The loss stands at {level} after {evidence.run_age:,} steps, too few to say where it goes."
    if state == "diverging":
        return (
            f"The loss has risen from {number(evidence.best)} to {number(evidence.best + evidence.rise)} since step "
            f"{since:,}, {evidence.rise_sigma:.1f} standard errors, and does not recover."
        )
    if state == "oscillating":
        period = f" every {evidence.swing.period:,.0f} steps" if evidence.swing else " from step to step"
        size = evidence.swing.amplitude if evidence.swing else evidence.noise
        return f"The loss swings by {number(size)} around {level}{period} and gets nowhere: {_forecast_words(forecast)}."
    at = f" at {percent(rate)} % of its peak learning rate" if rate is not None and rate < 0.99 else ""
    if state == "plateau":
        return (
            f"The loss has been flat at {level}{at} since about step {since:,}: "
            f"{percent(forecast.relative_improvement)} % more is the best guess for the next "
            f"{forecast.horizon_steps:,} steps (95 %: {percent(forecast.low)} to {percent(forecast.high)} %)."
        )
    word = "slowly" if state == "slow" else "steadily"
    return f"The loss falls {word}{at}, now {level}: {_forecast_words(forecast)}."


def assessment(signal: LossSignal, evidence: Evidence, previous: str) -> LossAssessment:
    """Put one look into words."""
    states = signal.states
    low, high = evidence.trend.interval(0.95)
    swing = evidence.swing
    forecast = forecast_of(signal, evidence)
    ratio = signal.rates.ratio
    since, error = states.since, states.since_error
    return LossAssessment(
        step=evidence.step, state=states.state, previous_state=previous, since_step=since, since_step_error=error,
        level=evidence.level, slope_per_step=evidence.trend.slope, slope_low=low, slope_high=high, noise=evidence.noise,
        forecast=forecast, plateau_probability=evidence.plateau_probability,
        confidence=states.confidence(evidence), material_gain=evidence.gain, best=evidence.best,
        rise=evidence.rise, rise_sigma=evidence.rise_sigma, swing=swing.amplitude if swing else 0.0,
        period_steps=swing.period if swing else 0.0,
        learning_rate=None if math.isnan(signal.rates.current) else signal.rates.current, learning_rate_ratio=ratio,
        steps_observed=evidence.run_age,
        reason=reason_of(states.state, since, evidence, forecast, ratio),
        next_percent_steps=next_percent(evidence),
    )  # fmt: skip


def next_percent(evidence: Evidence) -> int | None:
    """Steps until the loss has fallen by another 1 % of its size; None when that is beyond ten ages."""
    wanted = 0.01 * abs(evidence.level)
    if evidence.expected_gain <= 0 or wanted <= 0:
        return None
    gains = evidence.posterior.expected_gains(_AHEAD)
    reached = int(np.argmax(gains >= wanted))
    if gains[-1] < wanted or reached == 0:
        return None
    share = (wanted - gains[reached - 1]) / (gains[reached] - gains[reached - 1])
    ahead = _AHEAD[reached - 1] + share * (_AHEAD[reached] - _AHEAD[reached - 1])
    return max(1, round(float(ahead) * evidence.age))
