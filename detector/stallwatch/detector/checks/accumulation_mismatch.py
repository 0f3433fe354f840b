"""The effective batch is not what was declared, or gradient accumulation costs or scales what it should not."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.accumulation_scale import AccumulationScale, NormSample
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, RunDeclaration, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Severity, Verdict
from stallwatch.detector.stats.robust import median

SCALE, DECLARED, SYNCS = "loss scale", "declared count", "synchronisations"
_REMEMBERED_STEPS = 64
"""Sampled records come a few steps after their own."""


@dataclass(frozen=True, slots=True)
class AccumulationMismatchConfig:
    """Settings of the accumulation mismatch check."""

    window_steps: int = 20
    """Steps that are judged together."""
    windows: int = 2
    """Windows in a row that must show it: an epoch's end and a warm-up of the batch are short."""
    share: float = 0.9
    """Share of a window's steps that must show it."""
    undeclared_micro_batches: int = 3
    """Without a declared count, so many synchronised micro-batches are mentioned; two may be two losses (a GAN)."""
    norm_samples: int = 4
    """Sampled steps before and after a change of the count whose gradient norms are compared."""
    count_ratio: float = 1.5
    """The count must have changed by this factor at least."""

    def __post_init__(self) -> None:
        if self.window_steps < 8 or self.windows < 1:
            raise ValueError("window_steps must be at least 8 and windows at least 1")
        if not 0.5 < self.share <= 1 or not self.count_ratio > 1:
            raise ValueError("share must be between 0.5 and 1, and count_ratio above 1")
        if not 3 <= self.norm_samples <= 8 or self.undeclared_micro_batches < 2:
            raise ValueError(
                "norm_samples must be 3 to 8 and undeclared_micro_batches at least 2, not "
                f"{self.norm_samples} and {self.undeclared_micro_batches}"
            )


@dataclass(slots=True)
class AccumulationMismatch:
    """Finds gradient accumulation that is not what it is meant to be.

    Its forms: another count of micro-batches than declared, a synchronisation for every micro-batch, and a loss that is not
    divided by the count, or divided twice. The count is that of backward passes between optimizer steps. DDP synchronises at
    every micro-batch where `no_sync` does not enclose the forward as well: its count of synchronised forwards tells, the
    process group's count of collectives confirms. How the division shows is told in `accumulation_scale`.

    It cannot see a division that is missing from the first step to the last, nor counts where backward passes are not seen
    (compiled training steps). Without a declared count, needless synchronisation is `info`. Rows 3 and 21 of the failure table.
    """

    kind: ClassVar[str] = "accumulation_mismatch"
    consumes: ClassVar[tuple[type, ...]] = (
        StepObservation,
        SampledObservation,
        AttemptObservation,
        RunDeclaration,
    )

    config: AccumulationMismatchConfig = field(default_factory=AccumulationMismatchConfig)
    declared: int = 0
    base_batch: float = 0.0
    numbers: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    """Micro-batches of the window's steps, median over ranks."""
    syncs: list[float] = field(default_factory=list)
    """Synchronised forwards of the window's steps, likewise; -1 where unknown."""
    collectives: list[float] = field(default_factory=list)
    before: tuple[int, float, float] = (-1, -1.0, -1.0)
    """Step, synchronised forwards and collectives so far at the step before."""
    batch: float = 0.0
    """Running mean of the samples of a step, all ranks together."""
    recent: dict[int, int] = field(default_factory=dict)
    """Micro-batches of the latest steps, for sampled records."""
    scale: AccumulationScale = field(default_factory=AccumulationScale)
    shown: dict[str, int] = field(default_factory=dict)
    """Windows in a row, by what they showed."""
    onsets: dict[str, int] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers of the latest window or comparison."""
    said: str = ""
    said_count: float = 0.0
    since: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, RunDeclaration):
            self.declared, self.base_batch = observation.accumulation_steps, observation.base_batch_size
            return None
        if isinstance(observation, AttemptObservation):
            # What gradients were like before the restart is remembered: that is when settings change.
            self.numbers, self.counts, self.syncs, self.collectives = [], [], [], []
            self.before, self.recent = (-1, -1.0, -1.0), {}
            self.shown, self.onsets, self.said = {}, {}, ""
            return None
        if isinstance(observation, SampledObservation):
            return self._sample(observation)
        if not isinstance(observation, StepObservation):
            return None
        self._store(observation)
        if len(self.numbers) < self.config.window_steps:
            return None
        verdict = self._judge(observation)
        self.numbers, self.counts, self.syncs, self.collectives = [], [], [], []
        return verdict

    def _store(self, step: StepObservation) -> None:
        counts = step.micro_batches[step.micro_batches > 0]
        forwards, issued = _middle(step.ddp_iterations), _middle(step.collectives)
        last, forwards_before, issued_before = self.before
        self.before = (step.step, forwards, issued)
        usual = not step.optimizer_steps.size or bool((step.optimizer_steps == 1).all())
        if not counts.size or not usual:
            return
        count = int(median(counts))
        self.recent[step.step] = count
        if len(self.recent) > _REMEMBERED_STEPS:
            del self.recent[next(iter(self.recent))]
        total = float(step.samples.sum()) * step.world_size / len(step.ranks)
        self.batch += (total - self.batch) / 16 if self.batch else total
        follows = step.step == last + 1
        self.numbers.append(step.step)
        self.counts.append(count)
        # Only DDP with several ranks has anything to synchronise.
        judged = follows and step.world_size > 1 and step.parallelism is Parallelism.DATA_PARALLEL
        self.syncs.append(
            forwards - forwards_before if judged and min(forwards, forwards_before) >= 0 else -1.0
        )
        self.collectives.append(
            issued - issued_before if judged and min(issued, issued_before) >= 0 else -1.0
        )

    def _judge(self, step: StepObservation) -> Verdict | None:
        """A window is full."""
        counts, syncs = np.array(self.counts), np.array(self.syncs)
        usual = Counter(self.counts).most_common(1)[0][0]
        self._show(
            DECLARED, self._differs(usual, float((counts == usual).mean())), usual, counts != self.declared
        )
        wasted = np.minimum(syncs, counts) >= np.maximum(2, 0.9 * counts)
        wasted &= np.array(self.collectives) >= syncs
        enough = usual >= (2 if self.declared > 1 else self.config.undeclared_micro_batches)
        showing = enough and float(wasted.mean()) >= self.config.share
        self._show(SYNCS, showing, usual, wasted)
        if showing:
            self.facts["syncs"] = float(np.median(syncs[wasted]))
            self.facts["collectives"] = float(np.median(np.array(self.collectives)[wasted]))
        return self._conclude(step.step)

    def _differs(self, usual: int, share: float) -> bool:
        """Whether steps have a count of their own, other than the declared one."""
        if not self.declared or usual == self.declared or share < self.config.share:
            return False
        if self.declared > 1:
            return True
        # Several losses with a backward pass each are no accumulation: then the batch must have grown as well.
        return bool(self.base_batch) and abs(self.batch / self.base_batch / usual - 1) < 0.1

    def _show(self, form: str, showing: bool, usual: int, rows: NDArray[np.bool_]) -> None:
        if not showing:
            self.shown.pop(form, None)
            return
        if form not in self.shown:
            self.onsets[form] = self.numbers[int(np.argmax(rows))]
        self.shown[form] = self.shown.get(form, 0) + 1
        self.facts["micro_batches"] = float(usual)

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        count = self.recent.get(sample.step)
        local = sample.local_gradient_square
        measure, squares = "local", local[np.isfinite(local) & (local > 0)]
        if not squares.size:
            # Synchronised at every micro-batch: no local gradient of the whole step has ever existed.
            produced = sample.produced_gradient_square
            measure, squares = (
                f"averaged {sample.world_size}",
                produced[np.isfinite(produced) & (produced > 0)],
            )
        if count is None or not squares.size:
            return None
        applied = sample.reduced_gradient_square[sample.reduced_gradient_square > 0]
        taken = NormSample(
            step=sample.step,
            micro_batches=count,
            micro_samples=float(sample.samples.mean()) / count,
            measure=measure,
            norm=math.log(float(squares.mean())),
            applied=math.log(float(applied.mean()))
            if np.isfinite(applied).all() and applied.size
            else math.nan,
        )
        if self.scale.update(taken, self.declared, self.config.norm_samples, self.config.count_ratio):
            self.shown[SCALE], self.onsets[SCALE] = self.config.windows, self.scale.since
        else:
            self.shown.pop(SCALE, None)
        return self._conclude(sample.step)

    def _conclude(self, step: int) -> Verdict | None:
        form = next(
            (each for each in (SCALE, DECLARED, SYNCS) if self.shown.get(each, 0) >= self.config.windows), ""
        )
        if not form:
            if not self.said or self.shown:
                return None
            self.said = ""
            return Verdict(
                kind=self.kind,
                firing=False,
                step=step,
                since_step=self.since,
                reason=f"Gradient accumulation is in order again, up to step {step:,}.",
            )
        count = (
            self.facts.get("micro_batches", 0.0) if form != SCALE else float(self.scale.current.micro_batches)
        )
        if (form, count) == (self.said, self.said_count):
            return None
        self.said, self.said_count, self.since = form, count, self.onsets[form]
        return self._say(step, form, int(count))

    def _say(self, step: int, form: str, count: int) -> Verdict:
        evidence: dict[str, EvidenceValue] = {
            "form": form,
            "micro_batches": count,
            "declared_micro_batches": self.declared or None,
            "batch_size": self.batch or None,
            "base_batch_size": self.base_batch or None,
        }
        severity, confidence, score, threshold = None, 0.97, float(count), float(self.declared)
        error = 0.0
        if form == SCALE:
            found = self.scale
            old, factor = found.count_before, found.factor
            evidence |= {"micro_batches_before": old, "norm_ratio": factor, "relative_change": found.relative}
            score, threshold = abs(found.relative), 0.6 if found.undivided else 1.6
            confidence, error = 0.9 if old != count else 0.8, float(found.since_error)
            change = (
                f"from {old} to {count} micro-batches a step at step {self.since:,} their norm went to {factor:.3g} times what "
                f"it was"
                if old != count
                else f"with {count} micro-batches a step, their norm went to {factor:.3g} times what it was at step "
                f"{self.since:,}"
            )
            what = "is not divided by" if found.undivided else "is divided twice by"
            reason = f"Gradients scale with the accumulation: {change}, as they do where the loss {what} that number."
            advice = (
                (
                    f"Divide each micro-batch's loss by the number of micro-batches (now {count}), exactly once: in the script, "
                    "or in the framework's setting, not in both."
                ),
                f"Until then, without an optimizer that scales gradients itself, the learning rate acts as {factor:.3g} times what it was.",
            )
        elif form == DECLARED:
            times = count / self.declared
            size = f", {self.batch:,.0f} samples in all" if self.batch else ""
            reason = (
                f"Each optimizer step accumulates {count} micro-batches instead of the declared {self.declared} since step "
                f"{self.since:,}{size}: the effective batch is {times:.3g} times what was meant."
            )
            advice = (
                f"Step the optimizer after every {self.declared} micro-batches, or declare accumulation_steps={count}.",
                (
                    "Check that the loss is divided by the number of micro-batches that are really accumulated, and that the "
                    "learning rate fits this batch."
                ),
            )
        else:
            syncs, issued = self.facts["syncs"], self.facts["collectives"]
            evidence |= {"synchronisations_per_step": syncs, "collectives_per_step": issued}
            score, threshold = syncs, 1.0
            if self.declared <= 1:
                severity, confidence = Severity.INFO, 0.8
            reason = (
                f"Gradients are averaged {syncs:.0f} times for {count} micro-batches a step since step {self.since:,}, where "
                f"once would do ({issued:.0f} collectives a step): no_sync does not act."
            )
            advice = (
                (
                    "Put forward and backward of all micro-batches but the last inside model.no_sync(): with the backward alone "
                    "inside it, DDP averages every time."
                ),
                f"This saves {100 * (1 - 1 / syncs):.0f} % of the communication and changes no result.",
            )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=error,
            severity=severity,
            confidence=confidence,
            score=score,
            threshold=threshold,
            reason=reason,
            evidence=evidence,
            advice=advice,
        )


def _middle(values: NDArray[np.int64]) -> float:
    """The median over ranks of a cumulative count; -1 when no rank knows it."""
    known = values[values >= 0]
    return median(known) if known.size else -1.0
