"""Settings of the loss model. Few, with reasons, and the same for every kind of run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What counts as learning, and how sure a call must be."""

    material_share: float = 0.01
    """Improvement that matters over a horizon, as a share of the scale (the progress so far, at most the loss itself)."""
    few_points: float = 80.0
    """So many points double `material_share`: an epoch curve cannot resolve what a step stream can."""
    crawl_share: float = 0.5
    """A fall that is certain and above this share of the material gain is slow learning, not a plateau."""
    noise_share: float = 0.5
    """For a run that has hardly moved: improvement that matters, as a share of the noise of one of its ~50 blocks."""
    level_share: float = 0.01
    """... but at most this share of the loss itself."""
    trifle_share: float = 0.001
    """... and at least this share."""
    horizon_share: float = 0.5
    """Horizon over which improvement is judged, in times of the age of the present settings."""
    false_alarm_rate: float = 0.05
    """Probability at which a material improvement may still be to come when a plateau is called."""
    confirmations: int = 3
    """Looks in a row that must agree on a plateau."""
    persistence_share: float = 0.05
    """... over at least this share of the age."""
    trend_prior: float = 0.7
    """Prior probability that a curve has not broken off its trend."""
    stray_share: float = 1.5
    """How far the loss strays from any fitted course, per unit of log time, as a share of its move over the latest half."""
    drift_share: float = 0.05
    """... plus this share of itself."""
    minimum_points: int = 8
    """Points at the present settings before anything is said."""
    minimum_evaluations: int = 12
    """Evaluations at the present settings before the evaluation loss gives its second opinion."""
    dense_looks: int = 48
    """Below this many points every point is a look."""
    look_spacing: float = 0.05
    """Later looks are spaced by this share of the age."""
    hold_share: float = 0.1
    """After the settings changed, no plateau before this share of the whole run has passed."""
    settle_share: float = 0.2
    """After the learning rate was last raised (a warm-up), no plateau before this share of the whole run has passed."""
    fewest_steps: int = 100
    """No plateau before so many optimizer steps. Momentum and Adam's averages tie some ten steps together, so these hold no
    more than a handful of independent values. 0 where a step is something else: an epoch, a record."""
    mature_share: float = 0.05
    """No plateau before this share of the planned run, when it is known."""
    total_steps: int | None = None
    """Planned length of the run, when it is known."""

    def __post_init__(self) -> None:
        for name in ("material_share", "noise_share", "level_share", "horizon_share", "look_spacing"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.false_alarm_rate < 0.5:
            raise ValueError(f"false_alarm_rate must lie between 0 and 0.5, not {self.false_alarm_rate}")
        if not 0 < self.trend_prior < 1:
            raise ValueError(f"trend_prior must lie between 0 and 1, not {self.trend_prior}")
        if self.minimum_points < 8:
            raise ValueError(f"minimum_points must be at least 8, not {self.minimum_points}")
        if self.fewest_steps < 0:
            raise ValueError(f"fewest_steps must not be negative, not {self.fewest_steps}")
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {self.total_steps}")
