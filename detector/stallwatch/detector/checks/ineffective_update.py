"""Gradients flow and parameters do not move."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.ineffective_update_words import (
    LOST,
    NO_RATE,
    NOT_HELD,
    PARTLY,
    IneffectiveWords,
)
from stallwatch.detector.core.observations import AttemptObservation, RunDeclaration, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import Severity, Verdict

_TORCH_OPTIMIZERS = frozenset(
    "Adadelta Adagrad Adam AdamW Adamax ASGD NAdam RAdam RMSprop Rprop SGD".split()  # noqa: SIM905 - a list of words
)
"""Those that keep nothing of an update that the parameters could not take: no master weights, no stochastic rounding."""


@dataclass(frozen=True, slots=True)
class IneffectiveUpdateConfig:
    """Settings of the ineffective update check."""

    consecutive_samples: int = 3
    """Sampled steps in a row without any movement before it is called."""
    no_rate_steps: int = 50
    """Steps in a row with a learning rate of 0 before it is called."""
    no_rate_share: float = 0.05
    """... and at least this share of all steps so far, or of those declared: schedules may end a little early."""
    never_rate_steps: int = 100
    """Steps from the start with a learning rate of 0: some warm up that way."""
    lost_share: float = 0.98
    """Share of the elements with a gradient that half precision leaves as they were, from which hardly anything moves."""
    alive_rate: float = 0.1
    """... unless the learning rate has fallen below this share of its peak: then it is the schedule that ends training."""
    vanished_gradient: float = 1e-6
    """A squared gradient norm below this share of the largest one is no gradient to speak of: the run has converged."""
    resolve_samples: int = 2
    """Sampled steps in a row with movement that resolve the finding."""

    def __post_init__(self) -> None:
        for name in ("consecutive_samples", "no_rate_steps", "never_rate_steps", "resolve_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("no_rate_share", "lost_share", "alive_rate", "vanished_gradient"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")


@dataclass(slots=True)
class IneffectiveUpdate:
    """Finds optimizers whose steps leave the parameters where they are, though there are gradients, and says why.

    The learning rate is 0 for good; or nothing at all moves at a learning rate above 0, neither in sampled steps nor between
    them (the optimizer holds other tensors); or nearly every element's update is below the last bit of half precision. Where
    only part of the model stays, that is told as `info`: leaving it out of the optimizer may be meant.

    Gradients that are zero or have all but vanished are not judged, nor is the declared end of a schedule. Lost updates are
    judged for torch's own optimizers only: others may keep master weights. It cannot tell an optimizer that holds other
    tensors from one that multiplies its updates by 0. Signals: docs/ddp-failures.md, rows 24 and 30.
    """

    kind: ClassVar[str] = "ineffective_update"
    consumes: ClassVar[tuple[type, ...]] = (
        StepObservation,
        SampledObservation,
        RunDeclaration,
        AttemptObservation,
    )

    config: IneffectiveUpdateConfig = field(default_factory=IneffectiveUpdateConfig)
    optimizer: str = ""
    total_steps: int = 0
    first_step: int = -1
    rate: float = math.nan
    """Highest learning rate of the latest step."""
    peak: float = 0.0
    zero_since: int = -1
    """The step from which every learning rate has been 0; -1 while one is not."""
    alive_since: int = -1
    """The step from which every learning rate has been above 0; -1 while one is not."""
    moved_at: int = -1
    """The latest sampled step that moved something."""
    unmoved_at: int = -1
    """The first sampled step after it that moved nothing."""
    largest_gradient: float = 0.0
    previous: int = -1
    prints: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Of the parameters of the lowest rank, on the sample before."""
    still: int = 0
    """Samples in a row on which nothing moved; those below likewise."""
    lost: int = 0
    still_blocks: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    onset: dict[str, int] = field(default_factory=dict)
    """By form, the first of those samples, and the one before it."""
    before: dict[str, int] = field(default_factory=dict)
    share: float = math.nan
    moving: int = 0
    firing: bool = False
    form: str = ""
    since: int = -1
    error: float = 0.0
    layers: tuple[str, ...] = ()

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, StepObservation):
            return self._step(observation)
        if isinstance(observation, SampledObservation):
            return self._sample(observation)
        if isinstance(observation, RunDeclaration):
            self.optimizer, self.total_steps = observation.optimizer, observation.total_steps
        elif isinstance(observation, AttemptObservation):
            fresh = IneffectiveUpdate(self.config, self.optimizer, self.total_steps)
            for name in IneffectiveUpdate.__slots__:
                setattr(self, name, getattr(fresh, name))
        return None

    # --- every step -------------------------------------------------------------------------------------------------

    def _step(self, step: StepObservation) -> Verdict | None:
        if self.first_step < 0:
            self.first_step = step.step
        rates = step.learning_rates
        if not rates or not all(map(math.isfinite, rates)):
            self.zero_since = self.alive_since = -1
            return None
        self.rate = max(rates)
        self.peak = max(self.peak, self.rate)
        if min(rates) <= 0:
            self.alive_since = -1
        elif self.alive_since < 0:
            self.alive_since = step.step
        if self.rate > 0 or min(rates) < 0:
            self.zero_since = -1
            if self.firing and self.form == NO_RATE:
                return self._resolve(
                    step.step, f"The learning rate is {self.rate:.3g} at step {step.step:,}."
                )
            return None
        if self.zero_since < 0:
            self.zero_since = step.step
        if self.firing or self.moved_at >= self.zero_since or not self._is_for_good(step.step):
            return None
        self.firing, self.form, self.since, self.error, self.layers = True, NO_RATE, self.zero_since, 0.0, ()
        return self._verdict(step.step, 0)

    def _is_for_good(self, step: int) -> bool:
        """Whether the learning rate has been 0 for longer than the beginning or the end of a schedule has it."""
        if self.zero_since == self.first_step:
            return step - self.zero_since + 1 >= self.config.never_rate_steps
        done = max(step, self.total_steps)
        enough = max(self.config.no_rate_steps, self.config.no_rate_share * done)
        return step - self.zero_since + 1 >= enough

    # --- sampled steps ----------------------------------------------------------------------------------------------

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        before, prints_before = self.previous, self.prints
        self.previous = sample.step
        has_prints = sample.parameter_ranks[:1] == sample.ranks[:1]
        self.prints = sample.parameter_fingerprints[0].copy() if has_prints else np.zeros(0, np.uint64)
        gradients, updates = sample.reduced_gradient_square, sample.update_square
        if not np.isfinite(gradients).all() or not np.isfinite(updates).all():
            return None
        self.largest_gradient = max(self.largest_gradient, float(gradients.max()))
        if (updates > 0).any():
            self.moved_at, self.unmoved_at = sample.step, -1
        elif self.unmoved_at < 0:
            self.unmoved_at = sample.step
        if gradients.min() <= self.config.vanished_gradient * self.largest_gradient:
            return None
        # Loops that copy weights back after the step move parameters between two samples.
        compared = has_prints and prints_before.size == self.prints.size and before >= 0
        same = self.prints == prints_before if compared else np.zeros(0, np.bool_)
        # The rate may have been 0 between the two samples; a sample comes some steps after its own.
        alive = 0 <= self.alive_since <= max(before, self.first_step)
        still = alive and not updates.any() and (before < 0 or bool(compared and same.all()))
        self.still = self._run(NOT_HELD, self.still, still, sample.step, before)
        self._count_lost(sample, before)
        self._count_blocks(sample, same, before, alive=alive)
        return self._conclude(sample)

    def _run(self, form: str, count: int, bad: bool, step: int, before: int) -> int:
        if bad and not count:
            self.onset[form], self.before[form] = step, before
        return count + 1 if bad else 0

    def _count_lost(self, sample: SampledObservation, before: int) -> None:
        shares = sample.unchanged_share
        known = shares.size > 0 and bool(np.isfinite(shares).all())
        self.share = float(shares.min()) if known else math.nan
        lost = (
            known
            and self.share >= self.config.lost_share
            and self.optimizer in _TORCH_OPTIMIZERS
            and self.rate > self.config.alive_rate * self.peak
        )
        self.lost = self._run(LOST, self.lost, lost, sample.step, before)

    def _count_blocks(
        self, sample: SampledObservation, same: NDArray[np.bool_], before: int, *, alive: bool
    ) -> None:
        gradients, updates = sample.gradient_squares, sample.update_squares
        if gradients.ndim != 2 or gradients.shape != updates.shape or gradients.shape[1] != same.size:
            self.still_blocks = np.zeros(0, np.int64)
            return
        # Where replicas are equal, one rank tells for all.
        told = ~(np.isnan(gradients) & np.isnan(updates)).all(axis=1)
        if not told.any():
            self.still_blocks = np.zeros(0, np.int64)
            return
        gradients, updates = gradients[told], updates[told]
        # A block without a gradient on some rank is not judged.
        still = alive & (gradients > 0).all(axis=0) & (updates == 0).all(axis=0) & same
        if self.still_blocks.size != same.size:
            self.still_blocks = np.zeros(same.size, np.int64)
        self._run(PARTLY, int(self.still_blocks.max(initial=0)), bool(still.any()), sample.step, before)
        self.still_blocks = np.where(still, self.still_blocks + 1, 0)

    def _conclude(self, sample: SampledObservation) -> Verdict | None:
        needed = self.config.consecutive_samples
        form = ""
        layers: tuple[str, ...] = ()
        if self.lost >= needed:
            form = LOST
        elif self.still >= needed:
            form = NOT_HELD
        else:
            # The sample that a block was first compared with counts as well.
            blocks = np.flatnonzero(self.still_blocks >= needed - 1)
            if blocks.size:
                form, layers = PARTLY, tuple(sample.blocks[block] for block in blocks)
        if not form:
            return self._moves(sample.step)
        self.moving = 0
        if self.firing and (self.form != PARTLY or form == PARTLY):
            if layers == self.layers or form != PARTLY or self.form != PARTLY:
                return None
            self.layers = layers
            return self._verdict(sample.step, len(sample.blocks))
        self.firing, self.form, self.layers = True, form, layers
        low, high = max(self.before[form] + 1, self.first_step, 0), self.onset[form]
        if form == NOT_HELD:
            low, high = max(self.moved_at + 1, self.first_step, 0), self.unmoved_at
            if self.moved_at < 0:
                # Nothing has ever moved.
                high = low
        self.since, self.error = (low + high) // 2, (high - low) / 2
        return self._verdict(sample.step, len(sample.blocks))

    def _moves(self, step: int) -> Verdict | None:
        if not self.firing or self.form == NO_RATE:
            return None
        counts = {LOST: self.lost, NOT_HELD: self.still, PARTLY: int(self.still_blocks.max(initial=0))}
        self.moving = self.moving + 1 if not counts[self.form] else 0
        if self.moving < self.config.resolve_samples:
            return None
        return self._resolve(
            step, f"Parameters have moved again on {self.moving} sampled steps, up to step {step:,}."
        )

    # --- verdicts ---------------------------------------------------------------------------------------------------

    def _resolve(self, step: int, reason: str) -> Verdict:
        self.firing, self.moving = False, 0
        return Verdict(
            kind=self.kind, firing=False, step=step, since_step=self.since, reason=reason, layers=self.layers
        )

    def _verdict(self, step: int, blocks: int) -> Verdict:
        words = IneffectiveWords(
            self.form, self.since, step, self.still, self.rate, self.share, self.layers, blocks
        )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=self.error,
            severity=Severity.INFO if self.form == PARTLY else None,
            confidence=0.95,
            score=float(max(self.still, self.lost, step - self.since if self.form == NO_RATE else 0)),
            threshold=float(self.config.consecutive_samples),
            reason=words.reason(),
            evidence={
                "form": self.form,
                "learning_rate": self.rate,
                "unchanged_share": None if math.isnan(self.share) else self.share,
                "last_moved_sample": self.moved_at,
            },
            advice=words.advice(),
            layers=self.layers,
        )
