"""The same gradient leads to different updates on different ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.divergent_update_words import (
    EDITED,
    OPTIMIZER,
    RATE,
    SKIPPED,
    STEPS,
    DivergentWords,
)
from stallwatch.detector.checks.majority import (
    all_known,
    deviating,
    differing_blocks,
    disagree,
    majority_of_blocks,
)
from stallwatch.detector.checks.step_shift import StepShift
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, Floats, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import Verdict

_CARRIED = -3
_RATE_TOLERANCE = 1e-9
"""Relative: sums of rates that differ by rounding, as those of different mathematical libraries may, are equal."""


@dataclass(frozen=True, slots=True)
class DivergentUpdateConfig:
    """Settings of the divergent update check."""

    skipped_steps: int = 2
    """Steps in a row that show a skipped one before it is called."""
    unknown_steps: int = 8
    """Steps in a row with another gradient whose age is not known, before it counts as edited and not as old."""
    stale_memory_steps: int = 64
    """A rank whose gradient was old within so many steps is not taken for one that edits it."""
    update_tolerance: float = 0.1
    """Relative difference of the updates' norms that parameters which differ for another reason cannot explain: their weight
    decay adds some percent."""
    resolve_steps: int = 50
    """Steps in a row with equal updates of equal parameters that resolve the finding."""
    resolve_samples: int = 2
    """... sampled steps with equal gradients and parameters, where only samples have shown it."""

    def __post_init__(self) -> None:
        for name in (
            "skipped_steps",
            "unknown_steps",
            "stale_memory_steps",
            "resolve_steps",
            "resolve_samples",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.update_tolerance < 1:
            raise ValueError(f"update_tolerance must be between 0 and 1, not {self.update_tolerance}")


@dataclass(frozen=True, slots=True)
class Difference:
    """What a step shows."""

    form: str
    ranks: tuple[int, ...]
    needed: int = 1
    """Such steps in a row that are asked for."""
    values: tuple[float, float] = (math.nan, math.nan)


@dataclass(slots=True)
class DivergentUpdate:
    """Finds replicas that are updated differently though they were given the same averaged gradient: since when, and who.

    Learning rates and calls of `optimizer.step` are compared as such. Fingerprints of the gradient as the backward left it and
    as the optimizer saw it tell what was edited in between, on which ranks. Fingerprints of a few parameters before and after
    each step tell an update that differs (state, weight decay) from parameters that were changed outside of it. A rank whose
    backward passes run ahead of its optimizer steps has skipped one.

    An old gradient on some ranks is `stale_gradient`, and gradients that already differ after the reduction are
    `missing_gradient_sync`. It cannot see updates that differ in parts of the model that no fingerprint meets at the step on
    which they begin to; those are a `replica_desync` unless their norms differ much.
    Signals measured in docs/ddp-failures.md, rows 12, 13 and 14.
    """

    kind: ClassVar[str] = "divergent_update"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, SampledObservation, AttemptObservation)

    config: DivergentUpdateConfig = field(default_factory=DivergentUpdateConfig)
    shift: StepShift = field(default_factory=StepShift)
    stale_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The latest step on which each rank's gradient was an old one."""
    unsynchronised_at: int = -1
    """The latest step on which gradients differed already as the reduction left them, or may have."""
    separated_at: int = -1
    """The first step that was the same on all ranks but for the parameters that it found; -1 when there was none."""
    reduced_equally: bool = False
    """Whether gradients of the latest step were equal as the reduction left them."""
    equal_sample: int = -1
    """The latest sampled step with equal parameters."""
    bad_form: str = ""
    bad_steps: int = 0
    bad_since: int = -1
    good_steps: int = 0
    good_samples: int = 0
    sampled: bool = False
    """Whether only samples have shown what is firing."""
    broken: bool = False
    firing: bool = False
    form: str = ""
    since: int = -1
    error: float = 0.0
    named: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()
    compared: int = 0
    values: tuple[float, float] = (math.nan, math.nan)

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, StepObservation):
            return self._step(observation)
        if isinstance(observation, SampledObservation):
            return self._sample(observation)
        if isinstance(observation, AttemptObservation):
            fresh = DivergentUpdate(self.config)
            for name in DivergentUpdate.__slots__:
                setattr(self, name, getattr(fresh, name))
        return None

    # --- every step -------------------------------------------------------------------------------------------------

    def _step(self, step: StepObservation) -> Verdict | None:
        if not step.sync_expected or step.world_size < 2 or len(step.ranks) < 2:
            return None
        self.shift.update(step)
        self._note_stale(step)
        self.broken = bool((~np.isfinite(step.loss_sum) & (step.samples > 0)).any())
        if self.broken:
            # Bits of a NaN need not agree; the loss says what is wrong here.
            return None
        found = self._counts(step) or self._rates(step)
        if found is None:
            differing = disagree(step.gradient_fingerprint)
            found = self._gradients(step) if differing else self._updates(step)
            if found is None and differing:
                self.bad_steps = self.good_steps = 0
                return None
        if found is None:
            return self._good(step)
        return self._bad(step, found)

    def _note_stale(self, step: StepObservation) -> None:
        more = max(step.world_size, step.ranks[-1] + 1) - self.stale_at.size
        if more > 0:
            self.stale_at = np.append(self.stale_at, np.full(more, -(1 << 40)))
        if step.gradient_lag.size:
            old = (step.gradient_lag >= 1) | (step.gradient_lag == _CARRIED)
            if old.any():
                self.stale_at[np.array(step.ranks)[old]] = step.step

    def _counts(self, step: StepObservation) -> Difference | None:
        counts = step.optimizer_steps
        if not counts.size or counts.min() < 1 or (counts == counts[0]).all():
            return None
        least = int(counts.min())
        who = tuple(rank for rank, count in zip(step.ranks, counts.tolist(), strict=True) if count > least)
        return Difference(STEPS, who, values=(float(counts.max()), float(least)))

    def _rates(self, step: StepObservation) -> Difference | None:
        rates = step.learning_rate_sums
        known = np.isfinite(rates)
        if np.count_nonzero(known) < 2:
            return None
        values = rates[known]
        spread = float(values.max() - values.min())
        if spread <= _RATE_TOLERANCE * float(np.abs(values).max()):
            return None
        ranks = tuple(np.array(step.ranks)[known].tolist())
        who = deviating(ranks, values.view(np.int64))
        return Difference(RATE, who, values=_contrast(ranks, values, who))

    def _gradients(self, step: StepObservation) -> Difference | None:
        """The optimizers see different gradients: since the reduction?"""
        if self.shift.apart:
            who = self.shift.skipping()
            ahead = float(self.shift.ahead.max())
            return Difference(SKIPPED, who, needed=self.config.skipped_steps, values=(ahead, 0.0))
        taken = step.gradient_fingerprint != -1
        produced = step.produced_fingerprint
        if not all_known(produced) or disagree(produced):
            self.unsynchronised_at = step.step
            self.reduced_equally = False
            return None
        self.reduced_equally = True
        ranks = tuple(np.array(step.ranks)[taken].tolist())
        who = deviating(ranks, step.gradient_fingerprint[taken])
        recently = step.step - self.config.stale_memory_steps
        if len(who) == len(ranks):
            if (self.stale_at[list(who)] > recently).any():
                return None
        else:
            who = tuple(rank for rank in who if self.stale_at[rank] <= recently)
        if not who:
            return None
        scales = step.gradient_scale[taken] if step.gradient_scale.size else np.full(len(ranks), np.nan)
        lags = step.gradient_lag[taken] if step.gradient_lag.size else np.full(len(ranks), -1)
        among = np.isin(ranks, who)
        unknown = bool((lags[among] == -1).any()) and bool((lags != -1).any())
        return Difference(
            EDITED,
            who,
            needed=self.config.unknown_steps if unknown else 1,
            values=_contrast(ranks, scales, who),
        )

    def _updates(self, step: StepObservation) -> Difference | None:
        """The optimizers see equal gradients: do they make equal updates of them?"""
        if not all_known(step.gradient_fingerprint):
            return None
        self.shift.accept()
        self.reduced_equally = True
        before, after = step.parameters_before, step.parameters_after
        if not all_known(before) or not all_known(after):
            return None
        if disagree(before):
            self.separated_at = step.step if self.separated_at < 0 else self.separated_at
            return None
        if self.separated_at >= 0 or not disagree(after):
            return None
        return Difference(OPTIMIZER, deviating(step.ranks, after))

    def _good(self, step: StepObservation) -> Verdict | None:
        self.bad_steps = 0
        if not self.firing or self.sampled:
            return None
        apart = self.shift.apart or disagree(step.parameters_before) or disagree(step.parameters_after)
        self.good_steps = 0 if apart else self.good_steps + 1
        if self.good_steps < self.config.resolve_steps:
            return None
        return self._resolve(step.step, f"Updates have been equal again for {self.good_steps} steps.")

    def _resolve(self, step: int, reason: str) -> Verdict:
        self.firing = self.sampled = False
        self.good_samples = 0
        return Verdict(
            kind=self.kind, firing=False, step=step, since_step=self.since, reason=reason, ranks=self.named
        )

    def _bad(self, step: StepObservation, found: Difference) -> Verdict | None:
        self.good_steps = 0
        self.compared = len(step.ranks)
        if not self.bad_steps or found.form != self.bad_form:
            self.bad_form, self.bad_since, self.bad_steps = found.form, step.step, 0
        self.bad_steps += 1
        if self.firing:
            if found.form != self.form or set(found.ranks) <= set(self.named):
                return None
            self.named = tuple(sorted({*self.named, *found.ranks}))
            return self._verdict(step.step)
        if self.bad_steps < found.needed:
            return None
        self.firing, self.sampled = True, False
        self.form, self.since, self.error = found.form, self.bad_since, 0.0
        self.named, self.values, self.layers = found.ranks, found.values, ()
        return self._verdict(step.step)

    # --- sampled steps ----------------------------------------------------------------------------------------------

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        if sample.parallelism is not Parallelism.DATA_PARALLEL or self.broken or self.shift.apart:
            return None
        if self.sampled:
            return self._good_sample(sample)
        gradients = self._sampled_gradients(sample) if len(sample.gradient_ranks) > 2 else None
        return gradients or self._sampled_updates(sample)

    def _good_sample(self, sample: SampledObservation) -> Verdict | None:
        excluded = sample.any_non_finite()
        pairs = (
            (sample.gradient_ranks, sample.gradient_fingerprints),
            (sample.parameter_ranks, sample.parameter_fingerprints),
        )
        differ = any(len(ranks) > 1 and differing_blocks(prints, excluded).size for ranks, prints in pairs)
        self.good_samples = 0 if differ else self.good_samples + 1
        if self.good_samples < self.config.resolve_samples:
            return None
        return self._resolve(
            sample.step, f"Updates have been equal again on {self.good_samples} sampled steps."
        )

    def _sampled_gradients(self, sample: SampledObservation) -> Verdict | None:
        """A part of the gradient that one rank edits, and that no fingerprint of single steps has met."""
        blocks = differing_blocks(sample.gradient_fingerprints, sample.any_non_finite())
        recently = sample.step - self.config.stale_memory_steps
        if (
            self.firing
            or not blocks.size
            or not self.reduced_equally
            or self.unsynchronised_at > recently
            or (self.stale_at > recently).any()
        ):
            return None
        # Without an average, every rank has a gradient of its own.
        who = majority_of_blocks(sample.gradient_ranks, sample.gradient_fingerprints[:, blocks])
        if not who:
            return None
        layers = tuple(sample.blocks[block] for block in blocks)
        return self._open_between(sample, EDITED, who, (math.nan, math.nan), layers)

    def _sampled_updates(self, sample: SampledObservation) -> Verdict | None:
        """Updates whose size differs far beyond rounding."""
        if len(sample.parameter_ranks) < 2:
            return None
        parameters = differing_blocks(sample.parameter_fingerprints, sample.any_non_finite()).size
        if not parameters:
            self.equal_sample = sample.step
            if self.separated_at <= sample.step:
                # A sample comes some steps after its own, and what those steps have shown stays.
                self.separated_at = -1
            return None
        gradients = differing_blocks(sample.gradient_fingerprints, sample.any_non_finite()).size
        norms, sizes = np.sqrt(sample.update_square), np.sqrt(sample.parameter_square)
        was_equal = self.equal_sample >= 0 or sample.step == 0
        if self.firing or gradients or not was_equal or self.unsynchronised_at > self.equal_sample:
            return None
        if len(sample.gradient_ranks) < 2 or not np.isfinite(norms).all() or not np.isfinite(sizes).all():
            return None
        usual = float(np.median(norms)) if norms.size > 2 else float(norms.max())
        off = np.abs(norms - usual) / max(usual, 1e-300)
        # An update that is nothing but weight decay is as much larger as the parameters are.
        decay = 2 * float(sizes.max() - sizes.min()) / max(float(sizes.max()), 1e-300)
        if not usual > 0 or float(off.max()) <= self.config.update_tolerance + decay:
            return None
        far = tuple(np.array(sample.ranks)[off > off.max() / 2].tolist()) if norms.size > 2 else sample.ranks
        return self._open_between(sample, OPTIMIZER, far, _contrast(sample.ranks, norms, far), ())

    def _open_between(
        self,
        sample: SampledObservation,
        form: str,
        ranks: tuple[int, ...],
        values: tuple[float, float],
        layers: tuple[str, ...],
    ) -> Verdict:
        low = max(self.equal_sample + 1, 0)
        self.firing = self.sampled = True
        self.good_samples = 0
        self.form, self.named, self.values, self.layers = form, ranks, values, layers
        self.since = (low + sample.step) // 2
        self.error = float(sample.step - self.since)
        self.compared = len(sample.ranks)
        return self._verdict(sample.step)

    def _verdict(self, step: int) -> Verdict:
        words = DivergentWords(self.form, self.since, self.named, self.compared, self.layers, self.values)
        ours, others = (None if math.isnan(value) else value for value in self.values)
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=self.error,
            confidence=0.99 if not self.error else 0.9,
            score=float(max(self.bad_steps, 1)),
            threshold=0.0,
            reason=words.reason(),
            evidence={
                "form": self.form,
                "ranks_compared": self.compared,
                "value": ours,
                "value_of_others": others,
                "last_equal_sample": self.equal_sample,
            },
            advice=words.advice(),
            ranks=self.named,
            layers=self.layers,
        )


def _contrast(ranks: tuple[int, ...], values: Floats, who: tuple[int, ...]) -> tuple[float, float]:
    """A value of those who differ and one of the others; of the extremes when nobody is in the majority."""
    among = np.isin(ranks, who)
    if not np.isfinite(values).all():
        return math.nan, math.nan
    if among.all():
        return float(values.max()), float(values.min())
    return float(np.median(values[among])), float(np.median(values[~among]))
