"""Optimizer steps are taken on gradients that were not averaged over the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.majority import deviating
from stallwatch.detector.checks.wording import names_text, ranks_text
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Severity, Verdict

BYPASSED, UNFINISHED, DIFFERING, UNWRAPPED = "bypassed", "unfinished", "differing", "unwrapped"
PARTIAL, SCATTERED = "partial", "scattered"
_PARTS = (PARTIAL, SCATTERED)
_REMEMBERED = 8


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

    It cannot see a gradient that was averaged wrongly but equally on all ranks, nor judge sharded or deliberately local
    training, nor steps whose loss is not a number. Signals measured in docs/research/distributed.md, rows 1, 2, 5, 9, 27.
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
    agreed_sample: int = -1
    """Last sampled step whose gradients agreed in every block."""
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
        frozen_ddp, frozen_collectives, fewer, counted = self._count(step)
        broken = ~np.isfinite(step.loss_sum) & (step.samples > 0)
        if broken.any():
            # Bits of a NaN need not agree; the loss says what is wrong here.
            return None
        prints = step.gradient_fingerprint
        taken = prints != -1
        agree = differ = False
        if np.count_nonzero(taken) >= 2:
            known = prints[taken]
            differ = bool((known != known[0]).any())
            agree = not differ
        if agree:
            self.agreed_steps += 1
            return self._good(step.step)
        everyone = step.ranks
        # Somebody who averages by hand from here on issues collectives, though DDP's count stands still.
        ddp_stopped = (
            counted and self.ddp_moves >= self.config.baseline_steps and bool((frozen_ddp & fewer).all())
        )
        collectives_stopped = (
            counted and self.collective_moves >= self.config.baseline_steps and bool(frozen_collectives.all())
        )
        never = (
            counted
            and self.ddp_moves == 0
            and self.collective_moves == 0
            and bool(frozen_ddp.all())
            and bool(frozen_collectives.all())
        )
        form = BYPASSED if ddp_stopped or never else UNFINISHED if collectives_stopped else ""
        if differ:
            self.differing = [*self.differing[1 - _REMEMBERED :], step.step]
            index = np.flatnonzero(taken)
            ranks = deviating(tuple(everyone[i] for i in index), prints[taken])
            if step.parallelism is Parallelism.UNWRAPPED and not self.agreed_steps:
                form = UNWRAPPED
            return self._bad(
                step.step, form or DIFFERING, ranks, exact=bool(form) and form != UNWRAPPED and not never
            )
        if form and not step.sync_expected:
            return None
        if form:
            return self._bad(step.step, form, everyone, needed=self.config.never_steps if never else None)
        return self._good(step.step) if counted else None

    def _count(
        self, step: StepObservation
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], bool]:
        """What the counters did since the step before, per rank; moves the baselines.

        Returns:
            Where DDP's count stood still, where that of collectives did, where fewer collectives than ever were issued (or
            nobody counts them), and whether the two steps could be compared at all.
        """
        before_ddp, before_collectives = self.ddp, self.collectives
        comparable = self.ranks == step.ranks
        self.ranks, self.ddp, self.collectives = step.ranks, step.ddp_iterations, step.collectives
        none = np.zeros(0, np.bool_)
        if not comparable:
            return none, none, none, False
        frozen_ddp = (step.ddp_iterations == before_ddp) & (before_ddp >= 0)
        frozen_collectives = (step.collectives == before_collectives) & (before_collectives >= 0)
        issued = step.collectives - before_collectives
        counting = before_collectives >= 0
        fewer = ~counting | (issued < self.usual_collectives)
        moved = bool(((step.ddp_iterations > before_ddp) & (before_ddp >= 0)).all())
        if moved:
            self.ddp_moves += 1
        if bool(((issued > 0) & counting).all()):
            self.collective_moves += 1
            if moved:
                least = int(issued.min())
                self.usual_collectives = (
                    min(least, self.usual_collectives) if self.usual_collectives > 0 else least
                )
        known = bool((before_ddp >= 0).all()) or bool(counting.all())
        return frozen_ddp, frozen_collectives, fewer, known

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
        self, step: int, form: str, ranks: tuple[int, ...], *, exact: bool = False, needed: int | None = None
    ) -> Verdict | None:
        self.good_steps = 0
        if not self.bad_steps:
            self.bad_since = step
        self.bad_steps += 1
        if self.firing:
            if ranks == self.named and form == self.form:
                return None
            # What the first steps showed stays the headline unless more ranks turn out to be concerned.
            if self.form == SCATTERED and self.bad_steps >= max(4, self.config.consecutive_steps):
                self.form, self.named = form, ranks
                return self._verdict(step)
            if set(ranks) <= set(self.named) or self.form == BYPASSED:
                return None
            self.named = tuple(sorted({*self.named, *ranks}))
            return self._verdict(step)
        if self.bad_steps < (1 if exact else needed or self.config.consecutive_steps):
            lately = [other for other in self.differing if other > step - self.config.scattered_steps]
            if form != DIFFERING or len(lately) < max(self.config.consecutive_steps, 2):
                return None
            self.firing, self.since, self.form, self.named, self.layers = (
                True,
                lately[0],
                SCATTERED,
                ranks,
                (),
            )
            return self._verdict(step)
        self.firing, self.since, self.form, self.named, self.layers = True, self.bad_since, form, ranks, ()
        if needed is not None and form == BYPASSED:
            self.since = self.first_step
        return self._verdict(step)

    def _sample(self, sample: SampledObservation) -> Verdict | None:
        if sample.parallelism is not Parallelism.DATA_PARALLEL or len(sample.gradient_ranks) < 2:
            return None
        prints = sample.gradient_fingerprints
        differ = (prints != prints[0]).any(axis=0)
        for block in sample.any_non_finite():
            if block < differ.size:
                differ[block] = False
        if not differ.any():
            self.agreed_sample = sample.step
            if self.firing and self.form == PARTIAL:
                return self._resolve(sample.step)
            return None
        if self.bad_steps or (self.firing and self.form not in _PARTS):
            # The steps themselves tell it better.
            return None
        if self.firing and self.layers:
            return None
        if not np.isfinite(sample.reduced_gradient_square).all():
            return None
        blocks = np.flatnonzero(differ)
        since, known = self.since, self.firing
        self.firing, self.form, self.good_steps = True, PARTIAL, 0
        self.named = deviating(sample.gradient_ranks, prints[:, blocks])
        self.layers = tuple(sample.blocks[block] for block in blocks)
        if known:
            # The steps knew since when; now the layers have names.
            self.since = since
            return self._verdict(sample.step, share=blocks.size / differ.size)
        self.since = max(self.agreed_sample + 1, self.first_step, 0)
        error = (sample.step - self.since) / 2
        self.since += int(error)
        return self._verdict(sample.step, error=error, share=blocks.size / differ.size)

    def _verdict(self, step: int, error: float = 0.0, share: float = 1.0) -> Verdict:
        who = ranks_text(self.named)
        since = f"since step {self.since:,}"
        texts = {
            BYPASSED: f"Gradients are not averaged {since}: on {who} the optimizer goes on while DDP's count of synchronised "
            "forward passes stands still.",
            UNFINISHED: f"Gradients are not averaged {since}: on {who} DDP runs its forward pass, but no collective follows "
            "it, so the reduction never finishes.",
            DIFFERING: f"Gradients are not averaged {since}: the optimizers of {who} step on gradients that differ bit for bit"
            f"{' from those of the majority' if 2 < len(self.ranks) != len(self.named) else ''}.",
            PARTIAL: f"Gradients of {names_text(self.layers)} are not averaged, seen at step {step:,}: they differ on {who} "
            f"while the other blocks agree ({100 * share:.3g} % of blocks concerned).",
            SCATTERED: f"Part of the gradients is not averaged {since}: what the optimizers of {who} step on differs bit for bit on "
            f"some steps, {len(self.differing)} times lately, while other parts of the model agree.",
            UNWRAPPED: f"The model is not wrapped for data-parallel training, and the gradients of {who} differ {since}: "
            "each rank trains a model of its own.",
        }
        advice = {
            BYPASSED: (
                ("Call the wrapped model itself, not `model.module`, in the training loop; look for `no_sync()` that is never "
                f"left, at what the code does from step {self.since:,} on."),
            ),
            UNFINISHED: (
                ("Use `loss.backward()` rather than `torch.autograd.grad`, and let every trainable parameter take part in the "
                "loss, or set `find_unused_parameters=True`."),
            ),
            DIFFERING: (
                ("Look for gradients that are changed after the backward pass on some ranks only (clipping, scaling, editing), "
                "for `model.module` in the training loop, and for `no_sync()` around the last micro-batch."),
            ),
            PARTIAL: (
                (f"{names_text(self.layers)}: set `requires_grad` and replace parameters before wrapping in DDP; it only "
                "averages parameters that it has seen then."),
            ),
            SCATTERED: (
                ("Set `requires_grad` and replace parameters before wrapping in DDP: it only averages parameters that it has seen "
                f"then. Look at what was unfrozen or added around step {self.since:,}."),
            ),
            UNWRAPPED: (
                "Wrap the model in DistributedDataParallel, or give each rank its own run name if this is meant.",
            ),
        }
        restore = (
            f"Go back to a checkpoint from before step {self.since:,}: replicas have drifted apart since."
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
            reason=texts[self.form],
            evidence=evidence,
            advice=advice[self.form] if self.form == UNWRAPPED else (*advice[self.form], restore),
            ranks=self.named,
            layers=self.layers,
        )
