"""The gradient that is applied is an old one: delayed, frozen, repeated, or never cleared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.stale_gradient_words import (
    DELAYED,
    DELAYED_REDUCTION,
    FROZEN,
    FROZEN_REDUCTION,
    PARTLY_UNCLEARED,
    REPEATED,
    UNCLEARED,
    StaleWords,
)
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, Floats, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import Verdict

CARRIED = -3
"""Of `gradient_lag`: added to the gradient of the step before."""


@dataclass(frozen=True, slots=True)
class StaleGradientConfig:
    """Settings of the stale gradient check."""

    consecutive_steps: int = 3
    """Steps in a row on which a rank's gradient is old before it is called."""
    consecutive_samples: int = 2
    """... and sampled steps, for what only they show."""
    fresh_residual: float = 0.05
    """Share of the produced gradient that this step's local gradients leave unexplained, above which it is not theirs: beyond
    the rounding of half precision, and of most compression."""
    old_residual: float = 1e-3
    """... and below which it is that of an earlier step: four random numbers come as close once in 10^5."""
    resolve_steps: int = 50
    """Steps in a row with a fresh gradient that resolve the finding."""
    resolve_samples: int = 4
    """... sampled ones, for what only they show."""

    def __post_init__(self) -> None:
        for name in ("consecutive_steps", "consecutive_samples", "resolve_steps", "resolve_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.old_residual < self.fresh_residual < 1:
            raise ValueError("old_residual must be above 0 and below fresh_residual, and that below 1")


def _none() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class StaleGradient:
    """Finds optimizers that step on an old gradient, since when, how old, and on which ranks.

    The agent compares a slice of the gradient at the optimizer with those that the latest backwards left, up to a factor: that
    dates the gradient at every step. Calls of `optimizer.step` behind a backward are counted. On sampled steps, the mean of the
    ranks' own gradients is compared with what the reduction returned, now and for the steps before; and what was in the
    gradients before the first backward is measured.

    Each gradient applied several times a backward is `repeated`, hence stale, as long as all ranks do so; else replicas come
    apart and it is `divergent_update`. It cannot see an old gradient mixed with fresh ones, nor gradients older than 16 steps
    unless they are frozen. Signals and thresholds: docs/ddp-failures.md.
    """

    kind: ClassVar[str] = "stale_gradient"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, SampledObservation, AttemptObservation)

    config: StaleGradientConfig = field(default_factory=StaleGradientConfig)
    old: NDArray[np.int64] = field(default_factory=_none)
    """Of each rank, the steps in a row with an old gradient."""
    first_lag: NDArray[np.int64] = field(default_factory=_none)
    uncleared: NDArray[np.int64] = field(default_factory=_none)
    """... with one that was not cleared."""
    since: NDArray[np.int64] = field(default_factory=_none)
    """Of each rank, the first of those steps."""
    counting: bool = False
    """Whether any of these is above 0."""
    repeated: int = 0
    """Steps in a row on which all ranks applied the gradient more than once."""
    repeated_since: int = -1
    carried: NDArray[np.int64] = field(default_factory=_none)
    """Of each rank, the samples in a row with gradients that were not cleared."""
    carried_since: NDArray[np.int64] = field(default_factory=_none)
    """Of each rank, the first of those samples."""
    cleared_step: int = -1
    """The latest sampled step on which all had been cleared."""
    reduction_lag: int = 0
    """Age of what the reduction returned, by the latest samples; -1: the same as before."""
    reduction_samples: int = 0
    reduction_since: int = -1
    fresh_sample: int = -1
    """The latest sampled step whose reduction was fresh."""
    produced: Floats = field(default_factory=lambda: np.zeros(0))
    """What the reduction returned on the sample before."""
    good_steps: int = 0
    good_samples: int = 0
    firing: bool = False
    form: str = ""
    onset: int = -1
    error: float = 0.0
    named: tuple[int, ...] = ()
    lag: int = 0
    share: float = 0.0
    compared: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, StepObservation):
            return self._step(observation)
        if isinstance(observation, SampledObservation):
            return self._sample(observation)
        if isinstance(observation, AttemptObservation):
            fresh = StaleGradient(self.config)
            for name in StaleGradient.__slots__:
                setattr(self, name, getattr(fresh, name))
        return None

    # --- every step -------------------------------------------------------------------------------------------------

    def _step(self, step: StepObservation) -> Verdict | None:
        if not step.gradient_lag.size and not step.optimizer_steps.size:
            return None
        self.compared = len(step.ranks)
        lags = step.gradient_lag if step.gradient_lag.size else np.full(self.compared, -1)
        counts = step.optimizer_steps
        fresh = bool((lags <= 0).all()) and bool((lags != CARRIED).all()) and bool((lags != -1).any())
        if fresh and not self.counting and not (counts > 1).any():
            return self._good(step.step, fresh=True)
        self._make_room(max(step.world_size, step.ranks[-1] + 1))
        ranks = np.array(step.ranks)
        self._count(step.step, ranks, lags)
        repeats = int(counts.min()) if counts.size and (counts == counts[0]).all() else 1
        if repeats > 1:
            self.repeated_since = step.step if not self.repeated else self.repeated_since
        self.repeated = self.repeated + 1 if repeats > 1 else 0
        self.counting = bool(self.old.any() or self.uncleared.any() or self.repeated)

        needed = self.config.consecutive_steps
        old, uncleared = ranks[self.old[ranks] >= needed], ranks[self.uncleared[ranks] >= needed]
        if old.size:
            lag = int(np.median(lags[np.isin(ranks, old)]))
            grows = bool((lags - self.first_lag[ranks] == self.old[ranks] - 1)[np.isin(ranks, old)].all())
            return self._bad(step.step, FROZEN if grows else DELAYED, old, max(lag, 1))
        if uncleared.size:
            return self._bad(step.step, UNCLEARED, uncleared, 1)
        if self.repeated >= needed:
            return self._bad(step.step, REPEATED, ranks, repeats)
        return self._good(step.step, fresh=fresh and repeats == 1)

    def _make_room(self, size: int) -> None:
        more = size - self.old.size
        if more > 0:
            for name in ("old", "first_lag", "uncleared", "since", "carried", "carried_since"):
                setattr(self, name, np.append(getattr(self, name), np.zeros(more, np.int64)))

    def _count(self, step: int, ranks: NDArray[np.int64], lags: NDArray[np.int64]) -> None:
        """Extends or ends the runs of bad steps; a step of which nothing is known (-1) does neither."""
        stale, carried = lags >= 1, lags == CARRIED
        begins = (stale & (self.old[ranks] == 0)) | (carried & (self.uncleared[ranks] == 0))
        self.since[ranks[begins]] = step
        self.first_lag[ranks[begins]] = lags[begins]
        for counts, bad in ((self.old, stale), (self.uncleared, carried)):
            counts[ranks] = np.where(bad, counts[ranks] + 1, np.where(lags == -1, counts[ranks], 0))

    def _good(self, step: int, *, fresh: bool) -> Verdict | None:
        if not self.firing or self.form in {PARTLY_UNCLEARED, DELAYED_REDUCTION, FROZEN_REDUCTION}:
            return None
        self.good_steps = self.good_steps + 1 if fresh else 0
        return self._resolve(step) if self.good_steps >= self.config.resolve_steps else None

    def _bad(self, step: int, form: str, ranks: NDArray[np.int64], lag: int) -> Verdict | None:
        self.good_steps = 0
        if self.firing:
            named = tuple(sorted({*self.named, *ranks.tolist()}))
            if form != self.form or named == self.named:
                return None
            self.named = named
            return self._verdict(step)
        since = self.repeated_since if form == REPEATED else int(self.since[ranks].min())
        return self._open(step, form, tuple(ranks.tolist()), since, lag)

    # --- sampled steps ----------------------------------------------------------------------------------------------

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        return self._sample_carried(sample) or self._sample_reduction(sample)

    def _sample_carried(self, sample: SampledObservation) -> Verdict | None:
        squares = sample.carried_gradient_square
        if not squares.size:
            return None
        self._make_room(max(sample.world_size, sample.ranks[-1] + 1))
        ranks = np.array(sample.ranks)
        reduced = sample.reduced_gradient_square
        # What was cleared is exactly 0; this only keeps out what has become too small to be a number.
        bad = (squares > 1e-12 * reduced) & np.isfinite(reduced)
        self.carried_since[ranks[bad & (self.carried[ranks] == 0)]] = sample.step
        self.carried[ranks] = np.where(bad, self.carried[ranks] + 1, 0)
        if not bad.any():
            self.cleared_step = sample.step
            return self._good_sample(sample.step, {PARTLY_UNCLEARED})
        self.good_samples = 0
        named = ranks[self.carried[ranks] >= self.config.consecutive_samples]
        if self.firing or not named.size:
            return None
        self.share = float(np.median((squares / reduced)[np.isin(ranks, named)]))
        began = int(self.carried_since[named].min())
        return self._open_between(
            sample.step, PARTLY_UNCLEARED, tuple(named.tolist()), self.cleared_step, began, 1
        )

    def _sample_reduction(self, sample: SampledObservation) -> Verdict | None:
        """What came out of the reduction: is it the mean of what went in?"""
        if (
            sample.parallelism is not Parallelism.DATA_PARALLEL
            or sample.world_size < 2
            or len(sample.ranks) < sample.world_size
            or sample.local_anchors.ndim != 3
            or sample.produced_anchor.ndim != 2
        ):
            return None
        produced = sample.produced_anchor
        if not np.isfinite(produced).all() or not produced.any() or (produced != produced[0]).any():
            # Where ranks get different gradients, none of them is the mean, and that is another finding.
            self.produced = np.zeros(0)
            return None
        before, self.produced = self.produced, produced[0].copy()
        residuals = _residuals(sample.local_anchors.mean(axis=0), produced[0])
        if not residuals.size or not np.isfinite(residuals[0]):
            return None
        lag = 0
        if residuals[0] > self.config.fresh_residual:
            explained = np.flatnonzero(residuals < self.config.old_residual)
            if explained.size:
                lag = int(explained[0])
            elif before.size and (before == produced[0]).all():
                lag = -1
        if not lag:
            self.reduction_samples = self.reduction_lag = 0
            self.fresh_sample = sample.step
            return self._good_sample(sample.step, {DELAYED_REDUCTION, FROZEN_REDUCTION})
        self.good_samples = 0
        if lag != self.reduction_lag:
            self.reduction_lag, self.reduction_samples, self.reduction_since = lag, 0, sample.step
        self.reduction_samples += 1
        if self.firing or self.reduction_samples < self.config.consecutive_samples:
            return None
        form = FROZEN_REDUCTION if lag < 0 else DELAYED_REDUCTION
        return self._open_between(
            sample.step, form, sample.ranks, self.fresh_sample, self.reduction_since, max(lag, 1)
        )

    def _good_sample(self, step: int, forms: set[str]) -> Verdict | None:
        if not self.firing or self.form not in forms:
            return None
        self.good_samples += 1
        return self._resolve(step) if self.good_samples >= self.config.resolve_samples else None

    # --- verdicts ---------------------------------------------------------------------------------------------------

    def _open_between(
        self, step: int, form: str, ranks: tuple[int, ...], good: int, bad: int, lag: int
    ) -> Verdict:
        """It began after the last good sample, at the latest with the first bad one."""
        low, high = max(good + 1, 0), max(bad, good + 1, 0)
        self.error = (high - low) / 2
        return self._open(step, form, ranks, (low + high) // 2, lag)

    def _open(self, step: int, form: str, ranks: tuple[int, ...], since: int, lag: int) -> Verdict:
        if form in {DELAYED, FROZEN, UNCLEARED, REPEATED}:
            self.error = 0.0
        self.firing, self.form, self.named, self.onset, self.lag = True, form, ranks, since, lag
        self.good_steps = self.good_samples = 0
        return self._verdict(step)

    def _resolve(self, step: int) -> Verdict:
        self.firing = False
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            since_step=self.onset,
            reason=f"The optimizer steps on fresh gradients again, up to step {step:,}.",
            ranks=self.named,
        )

    def _verdict(self, step: int) -> Verdict:
        everyone = len(self.named) >= max(self.compared, 1)
        words = StaleWords(self.form, self.onset, self.named, everyone, self.lag, self.share)
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.onset,
            since_step_error=self.error,
            confidence=0.99,
            score=float(self.lag),
            threshold=0.0,
            reason=words.reason(),
            evidence={
                "form": self.form,
                "lag_steps": self.lag,
                "ranks_compared": self.compared,
                "carried_share": self.share,
                "last_cleared_sample": self.cleared_step,
                "last_fresh_sample": self.fresh_sample,
            },
            advice=words.advice(),
            ranks=self.named,
        )


def _residuals(means: Floats, produced: Floats) -> Floats:
    """Of each row, the share of `produced` that no multiple of the row explains; NaN where a row is unknown or all zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        dots = means @ produced
        cosines = dots / np.sqrt((means**2).sum(axis=1) * float(produced @ produced))
    return np.where(cosines > 0, 1.0 - cosines**2, np.where(np.isnan(cosines), np.nan, 1.0))
