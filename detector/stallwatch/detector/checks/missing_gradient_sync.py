"""Optimizer steps are taken on gradients that were not averaged over the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.majority import (
    all_known,
    deviating,
    differing_blocks,
    disagree,
    majority_of_blocks,
)
from stallwatch.detector.checks.missing_gradient_sync_words import (
    BYPASSED,
    DIFFERING,
    PARTIAL,
    SCATTERED,
    UNFINISHED,
    UNWRAPPED,
    Words,
)
from stallwatch.detector.checks.step_shift import StepShift
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Severity, Verdict

_PARTS = (PARTIAL, SCATTERED)
_REMEMBERED = 8
_EDITS_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class MissingGradientSyncConfig:
    """Settings of the missing gradient synchronisation check."""

    consecutive_steps: int = 2
    """Bad steps in a row before it is called, unless fingerprints and counters agree about the first one."""
    baseline_steps: int = 8
    """Steps on which a counter must have advanced before its standing still means something."""
    never_steps: int = 20
    """Without fingerprints: steps from the start with both counters at rest before it is called."""
    scattered_steps: int = 64
    """Differing fingerprints on `consecutive_steps` of so many steps mean that part of the model is left out: what is
    fingerprinted moves from step to step."""
    resolve_steps: int = 50
    """Good steps in a row that resolve the finding."""
    resolve_part_steps: int = 500
    """... when only part of the model is concerned, which is met again after many steps only."""
    unwrapped: bool = True
    """Also judge several processes whose model is not wrapped at all; as a warning."""

    def __post_init__(self) -> None:
        for name in (
            "consecutive_steps",
            "baseline_steps",
            "never_steps",
            "scattered_steps",
            "resolve_steps",
            "resolve_part_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def _none() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class MissingGradientSync:
    """Finds optimizer steps on gradients that were never averaged, since when, and on which ranks.

    Three exact signals: the fingerprints of the gradients that the optimizers saw differ; DDP's count of synchronised forwards
    stands still while optimizer steps go on (the wrapper is bypassed, or `no_sync` misplaced); or only the count of
    collectives stands still (the reduction never finished, as after `torch.autograd.grad` or an unused parameter). Equal
    fingerprints acquit, whatever the counters say. Sampled per-block fingerprints find single parameters that are left out.

    What the last backward left is fingerprinted, too: where that is equal on all ranks and what the optimizers saw is not,
    gradients were averaged, and edited afterwards (`divergent_update`) or exchanged for old ones (`stale_gradient`). Nor are
    fingerprints compared once a rank has skipped a step: its step numbers are then those of other iterations.

    It cannot see a gradient that was averaged wrongly but equally on all ranks, nor judge sharded or deliberately local
    training, nor steps whose loss is not a number. Signals measured in docs/ddp-failures.md, rows 1, 2, 5, 9, 27.
    """

    kind: ClassVar[str] = "missing_gradient_sync"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, SampledObservation, AttemptObservation)

    config: MissingGradientSyncConfig = field(default_factory=MissingGradientSyncConfig)
    ranks: tuple[int, ...] = ()
    """Ranks of the step before; the arrays below are indexed like it."""
    ddp: NDArray[np.int64] = field(default_factory=_none)
    """DDP iterations after the step before."""
    collectives: NDArray[np.int64] = field(default_factory=_none)
    ddp_moves: int = 0
    """Steps on which DDP's count advanced on every rank."""
    collective_moves: int = 0
    usual_collectives: int = -1
    """The fewest collectives that any rank has issued on a step with an advance; -1 while unknown."""
    first_step: int = -1
    agreed_steps: int = 0
    """Steps of this attempt whose fingerprints were equal on all ranks."""
    bad_steps: int = 0
    """Bad steps in a row."""
    bad_since: int = -1
    good_steps: int = 0
    differing: list[int] = field(default_factory=list)
    """The latest steps on which fingerprints differed."""
    shift: StepShift = field(default_factory=StepShift)
    edited: list[int] = field(default_factory=list)
    """The latest steps on which gradients were averaged and yet differed at the optimizers."""
    knows_produced: bool = False
    """Whether every rank has told what the latest step's backward left."""
    broken: bool = False
    """Whether the loss of the latest step was no number."""
    agreed_sample: int = -1
    """Last sampled step whose gradients agreed in every block."""
    differing_sample: int = -1
    """The first sampled step since then whose gradients did not; -1: none."""
    firing: bool = False
    since: int = -1
    form: str = ""
    named: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, StepObservation):
            return self._step(observation) if self._applies(observation) else None
        if isinstance(observation, SampledObservation):
            return self._sample(observation)
        if isinstance(observation, AttemptObservation):
            fresh = MissingGradientSync(self.config)
            for name in MissingGradientSync.__slots__:
                setattr(self, name, getattr(fresh, name))
        return None

    def _applies(self, step: StepObservation) -> bool:
        if step.world_size < 2 or len(step.ranks) < 2:
            return False
        if step.sync_expected:
            return True
        return self.config.unwrapped and step.parallelism is Parallelism.UNWRAPPED

    def _step(self, step: StepObservation) -> Verdict | None:
        if self.first_step < 0:
            self.first_step = step.step
        self.shift.update(step)
        stopped, never, counted = self._count(step)
        self.broken = bool((~np.isfinite(step.loss_sum) & (step.samples > 0)).any())
        if self.broken:
            # Bits of a NaN need not agree; the loss says what is wrong here.
            return None
        self.knows_produced = all_known(step.produced_fingerprint)
        taken = step.gradient_fingerprint != -1
        prints = step.gradient_fingerprint[taken]
        if prints.size >= 2:
            if self._is_averaged(step):
                return self._good(step.step)
            ranks = deviating(tuple(step.ranks[i] for i in np.flatnonzero(taken)), prints)
            return self._differ(step, ranks, stopped, never=never)
        if stopped and step.sync_expected:
            needed = self.config.never_steps if never else self.config.consecutive_steps
            return self._bad(
                step.step, stopped, step.ranks, needed=needed, since=self.first_step if never else -1
            )
        return self._good(step.step) if counted and not stopped else None

    def _differ(
        self, step: StepObservation, ranks: tuple[int, ...], stopped: str, *, never: bool
    ) -> Verdict | None:
        """Ranks see different gradients: are they those of the same iteration?"""
        if self.shift.apart:
            return None
        self.differing = [*self.differing[1 - _REMEMBERED :], step.step]
        if step.parallelism is Parallelism.UNWRAPPED and not self.agreed_steps:
            return self._bad(step.step, UNWRAPPED, ranks)
        needed = 1 if stopped and not never else self.config.consecutive_steps
        return self._bad(step.step, stopped or DIFFERING, ranks, needed=needed)

    def _is_averaged(self, step: StepObservation) -> bool:
        """Whether gradients agree, as the optimizers saw them or as the last backward left them."""
        if not disagree(step.gradient_fingerprint):
            self.agreed_steps += 1
            self.shift.accept()
            return True
        edited = self.knows_produced and not disagree(step.produced_fingerprint) and not self.shift.apart
        if edited:
            self.edited = [*self.edited[1 - _EDITS_REMEMBERED :], step.step]
        return edited

    def _count(self, step: StepObservation) -> tuple[str, bool, bool]:
        """What the counters say of this step, and their baselines for the next.

        Returns:
            The form of failure that they show, if any; whether they have never moved at all in this attempt; and whether
            there was anything to compare.
        """
        ranks, ddp, collectives = self.ranks, self.ddp, self.collectives
        self.ranks, self.ddp, self.collectives = step.ranks, step.ddp_iterations, step.collectives
        if ranks != step.ranks:
            return "", False, False
        has_ddp, has_collectives = bool((ddp >= 0).all()), bool((collectives >= 0).all())
        forwards, issued = step.ddp_iterations - ddp, step.collectives - collectives
        moved = has_ddp and bool((forwards > 0).all())
        communicated = has_collectives and bool((issued > 0).all())
        no_forwards = has_ddp and bool((forwards == 0).all())
        no_collectives = has_collectives and bool((issued == 0).all())
        # Somebody who averages by hand from here on issues collectives, though DDP's count stands still.
        fewer = not has_collectives or bool((issued < self.usual_collectives).all())
        never = no_forwards and no_collectives and not self.ddp_moves and not self.collective_moves
        stopped = ""
        if never or (no_forwards and fewer and self.ddp_moves >= self.config.baseline_steps):
            stopped = BYPASSED
        elif no_collectives and self.collective_moves >= self.config.baseline_steps:
            stopped = UNFINISHED
        self.ddp_moves += moved
        self.collective_moves += communicated
        if moved and communicated:
            least = int(issued.min())
            self.usual_collectives = (
                min(least, self.usual_collectives) if self.usual_collectives > 0 else least
            )
        return stopped, never, has_ddp or has_collectives

    def _good(self, step: int) -> Verdict | None:
        self.bad_steps = 0
        if not self.firing:
            return None
        self.good_steps += 1
        needed = self.config.resolve_part_steps if self.form in _PARTS else self.config.resolve_steps
        if self.good_steps < needed:
            return None
        return self._resolve(step)

    def _resolve(self, step: int) -> Verdict:
        self.firing = False
        self.differing = []
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            since_step=self.since,
            reason=f"Gradients have been averaged again for {self.good_steps} steps; they were not from step {self.since:,}.",
            ranks=self.named,
        )

    def _bad(
        self, step: int, form: str, ranks: tuple[int, ...], needed: int | None = None, since: int = -1
    ) -> Verdict | None:
        self.good_steps = 0
        if not self.bad_steps:
            self.bad_since = step
        self.bad_steps += 1
        if self.firing:
            return self._verdict(step) if self._is_news(form, ranks) else None
        needed = needed or self.config.consecutive_steps
        scattered = [other for other in self.differing if other > step - self.config.scattered_steps]
        if self.bad_steps >= needed:
            began = since if since >= 0 else self.bad_since
        elif form == DIFFERING and len(scattered) >= max(needed, 2):
            began, form = scattered[0], SCATTERED
        else:
            return None
        if self.differing_sample >= 0:
            # All of a sample is compared, and some elements of a step.
            began = min(began, self.differing_sample)
        self.firing, self.since, self.form, self.named, self.layers = True, began, form, ranks, ()
        return self._verdict(step)

    def _is_news(self, form: str, ranks: tuple[int, ...]) -> bool:
        """Whether a bad step adds to what was said; what the first steps showed stays the headline otherwise."""
        if self.form == SCATTERED and self.bad_steps >= max(4, self.config.consecutive_steps):
            self.form, self.named = form, ranks
            return True
        if self.form == BYPASSED or set(ranks) <= set(self.named):
            return False
        self.named = tuple(sorted({*self.named, *ranks}))
        return True

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        if sample.parallelism is not Parallelism.DATA_PARALLEL or len(sample.gradient_ranks) < 2:
            return None
        blocks = differing_blocks(sample.gradient_fingerprints, sample.any_non_finite())
        if not blocks.size:
            self.agreed_sample, self.differing_sample = sample.step, -1
            return self._resolve(sample.step) if self.firing and self.form == PARTIAL else None
        if self.shift.apart or self._is_edited(sample, blocks):
            return None
        if self.broken or np.isinf(sample.reduced_gradient_square).any():
            # The numbers are none.
            return None
        if self.differing_sample < 0:
            self.differing_sample = sample.step
        told = self.firing and (self.form not in _PARTS or self.layers)
        earlier = self.firing and sample.step < self.since
        if earlier:
            self.since = sample.step
        share = blocks.size / sample.gradient_fingerprints.shape[1]
        if told or (self.bad_steps and share == 1):
            # The steps themselves tell it better.
            return self._verdict(sample.step) if earlier else None
        error = 0.0
        if not self.firing:
            low = max(self.agreed_sample + 1, self.first_step, 0)
            self.since = (low + sample.step) // 2
            error = float(sample.step - self.since)
        # When steps have told since when already, now the layers get names.
        self.firing, self.form, self.good_steps = True, PARTIAL, 0
        self.named = deviating(sample.gradient_ranks, sample.gradient_fingerprints[:, blocks])
        self.layers = tuple(sample.blocks[block] for block in blocks)
        return self._verdict(sample.step, error=error, share=share)

    def _is_edited(self, sample: SampledObservation, blocks: NDArray[np.int64]) -> bool:
        """Whether gradients differ for what was done to them after they had been averaged."""
        recently = sample.step - self.config.scattered_steps
        if any(step > recently for step in self.edited) and not any(
            step > recently for step in self.differing
        ):
            return True
        # What is not averaged differs on every rank; a majority that agrees has been given an average.
        prints = sample.gradient_fingerprints[:, blocks]
        return self.knows_produced and bool(majority_of_blocks(sample.gradient_ranks, prints))

    def _verdict(self, step: int, error: float = 0.0, share: float = 1.0) -> Verdict:
        words = Words(
            form=self.form,
            since=self.since,
            step=step,
            ranks=self.named,
            compared=len(self.ranks),
            layers=self.layers,
            share=share,
            times=len(self.differing),
        )
        evidence: dict[str, EvidenceValue] = {
            "form": self.form,
            "bad_steps": self.bad_steps,
            "agreed_steps": self.agreed_steps,
            "ranks_compared": len(self.ranks),
            "last_agreed_sample": self.agreed_sample,
        }
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=error,
            severity=Severity.WARNING if self.form == UNWRAPPED else None,
            confidence=0.7 if self.form == UNWRAPPED else 0.99,
            score=float(self.bad_steps or 1),
            threshold=float(self.config.consecutive_steps),
            reason=words.reason(),
            evidence=evidence,
            advice=words.advice(),
            ranks=self.named,
            layers=self.layers,
        )
