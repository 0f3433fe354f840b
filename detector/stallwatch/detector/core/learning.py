"""What the analysis says about the loss: points of a log file in, assessments out."""

from __future__ import annotations

from dataclasses import dataclass

LOSS_STATES = ("warming_up", "improving", "slow", "plateau", "oscillating", "diverging")
"""States of the loss, as `LossAssessment.state` and a run's `state` use them."""
STOPPED_STATES = frozenset({"plateau", "oscillating", "diverging"})
"""States in which the run no longer learns."""


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One point of a loss curve that was already reduced to a number: a record of a log file."""

    step: int
    """Optimizer step, or the record's ordinal where the log has no steps."""
    loss: float
    weight: float = 1.0
    """How much evidence the point carries relative to the others, for instance the steps it averages over."""
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class LossForecast:
    """Improvement of the smoothed loss to expect over the next steps, with a 95 % interval, as shares of the loss now."""

    horizon_steps: int
    relative_improvement: float
    """Positive: the loss falls by this share of its present size."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LossAssessment:
    """One look at the loss: where it is, where it goes, and whether it still learns.

    Losses are in units of the loss; slopes per step; probabilities in [0, 1].
    """

    step: int
    state: str
    """One of `LOSS_STATES`."""
    previous_state: str
    """The state at the look before this one."""
    since_step: int
    """Estimate of where the present state began."""
    since_step_error: float
    """One standard error of `since_step`, in steps."""
    level: float
    """The smoothed loss now."""
    slope_per_step: float
    slope_low: float
    slope_high: float
    """95 % confidence interval of `slope_per_step`, widened for autocorrelation."""
    noise: float
    """Standard deviation of single points around the curve."""
    forecast: LossForecast | None
    plateau_probability: float
    """Probability that less than the material gain is to come over the forecast's horizon."""
    confidence: float
    """Probability that `state` is right."""
    material_gain: float
    """The smallest improvement over the forecast's horizon that counts as learning."""
    best: float
    """The lowest smoothed level so far at these settings."""
    rise: float
    """How far the loss now stands above `best`."""
    rise_sigma: float
    """`rise` in standard errors."""
    swing: float
    """Amplitude of a periodic component; 0 when there is none."""
    period_steps: float
    """Its period; 0 when there is none."""
    learning_rate: float | None
    learning_rate_ratio: float | None
    """The learning rate as a share of its peak."""
    steps_observed: int
    """Steps from the first point to this one."""
    reason: str
    """One sentence with numbers in it."""
    next_percent_steps: int | None = None
    """Steps until the loss has fallen by 1 % of its size at the present rate; None when that is beyond the horizon."""
