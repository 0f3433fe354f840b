"""The parameters of the replicas differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from stallwatch.detector.checks.majority import deviating, differing_blocks, disagree
from stallwatch.detector.checks.wording import names_text, ranks_text
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import Severity, Verdict

PARAMETERS, BUFFERS = "parameters", "buffers"
_INCOMPLETE = 4
"""Times as many steps are asked for while none of them had all ranks."""


@dataclass(frozen=True, slots=True)
class ReplicaDesyncConfig:
    """Settings of the replica desynchronisation check."""

    resolve_samples: int = 2
    """Sampled steps in a row with equal parameters that resolve the finding."""
    differing_steps: int = 3
    """Steps on which a few parameters, compared at every step, differ before it is called without a sample: whatever makes updates
    differ, or leaves gradients without averaging, is called within two."""

    def __post_init__(self) -> None:
        for name in ("resolve_samples", "differing_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(slots=True)
class ReplicaDesync:
    """Finds replicas whose parameters are not bit for bit the same: between which steps, which ranks, which blocks.

    A few parameters are compared at every step: where they differ on several, although gradients are the same, so do the replicas,
    and no sample is waited for. All parameters are compared on sampled steps only. There, the onset is known as an interval: after the
    last sampled step with equal parameters, up to the first with differing ones; where all of the model differs, the few name the
    step. Equal gradients do not help replicas that differ: nothing in DDP brings them together again.

    Buffers (running statistics) are read right after DDP has broadcast those of rank 0. Where they differ even then, nobody
    broadcasts them, which may be meant: that is told as `info`.

    It cannot tell a bit flip from a weight that a script changed; sharded and deliberately local training are left alone, and
    blocks with a NaN are not compared.
    """

    kind: ClassVar[str] = "replica_desync"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation, StepObservation, AttemptObservation)

    config: ReplicaDesyncConfig = field(default_factory=ReplicaDesyncConfig)
    first_step: int = -1
    """First step of this attempt: replicas start out equal, DDP sees to it."""
    equal_step: int = -1
    """Last sampled step with equal parameters."""
    equal_samples: int = 0
    differing_gradients: int = 0
    """Steps since then on which the ranks' gradients differed."""
    broken: bool = False
    """Whether the loss of the latest step was no number."""
    seen_step: int = -1
    """The first step since then on which a few parameters, compared at every step, differed."""
    seen_steps: int = 0
    """Such steps, with equal gradients."""
    compared: tuple[int, ...] = ()
    """The most ranks that one of them compared, and those of them that differed from the majority."""
    minority: tuple[int, ...] = ()
    unlike_steps: int = 0
    """Steps from `seen_step` on, with equal gradients."""
    equal_buffers: int = -1
    """Last sampled step with equal buffers."""
    firing: bool = False
    form: str = ""
    low: int = -1
    high: int = -1
    """The onset lies in [low, high]."""
    named: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, StepObservation):
            if self.first_step < 0:
                self.first_step = observation.step
            prints = observation.gradient_fingerprint
            known = prints[prints != -1]
            self.broken = bool((~np.isfinite(observation.loss_sum) & (observation.samples > 0)).any())
            if known.size > 1 and observation.sync_expected and bool((known != known[0]).any()):
                self.differing_gradients += 1
            differs = disagree(observation.parameters_before) or disagree(observation.parameters_after)
            if self.seen_step < 0 and differs and observation.sync_expected:
                self.seen_step = observation.step
            return self._count(observation, averaged=known.size > 1 and bool((known == known[0]).all()))
        if isinstance(observation, SampledObservation):
            return self._compare(observation)
        if isinstance(observation, AttemptObservation):
            self.first_step = observation.step
            self.equal_step = self.low = self.high = self.seen_step = self.equal_buffers = -1
            self.equal_samples = self.differing_gradients = self.seen_steps = self.unlike_steps = 0
            self.compared = self.minority = ()
            self.firing, self.form, self.named, self.layers = False, "", (), ()
        return None

    def _count(self, step: StepObservation, *, averaged: bool) -> Verdict | None:
        """What the few parameters say that are compared at every step."""
        if step.parallelism is not Parallelism.DATA_PARALLEL or not step.sync_expected or self.seen_step < 0:
            return None
        if not averaged or self.broken or self.differing_gradients:
            # Replicas whose gradients differ are explained by those.
            return None
        before = step.parameters_before
        self.unlike_steps += 1
        if not disagree(before):
            return None
        self.seen_steps += 1
        known = before != -1
        compared = tuple(np.array(step.ranks)[known].tolist())
        if len(compared) >= len(self.compared):
            # Where a rank is late, those that are there may have no majority.
            self.compared, self.minority = compared, deviating(compared, before[known])
        needed = self.config.differing_steps
        if len(self.compared) < step.world_size:
            needed *= _INCOMPLETE
        if self.firing or self.seen_steps < needed:
            return None
        self.firing, self.form, self.layers, self.named = True, PARAMETERS, (), self.minority
        self.low = max(self.equal_step + 1, self.first_step, 0)
        self.high = max(self.seen_step, self.low)
        if self.seen_steps == self.unlike_steps:
            # What differs as a whole would have been met on any step before.
            self.low = self.high
        return self._verdict(step.step, self.compared, blocks=0, share=0.0, buffers_differ=False)

    def _compare(self, sample: SampledObservation) -> Verdict | None:
        if sample.parallelism is not Parallelism.DATA_PARALLEL or len(sample.parameter_ranks) < 2:
            return None
        prints = sample.parameter_fingerprints
        blocks = differing_blocks(prints, sample.any_non_finite())
        if not blocks.size:
            return self._equal(sample.step) or self._compare_buffers(sample)
        if self.broken or np.isinf(sample.parameter_square).any():
            # Bits of a NaN need not agree; the loss says what is wrong here.
            return None
        self.equal_samples = 0
        ranks = deviating(sample.parameter_ranks, prints[:, blocks])
        layers = tuple(sample.blocks[block] for block in blocks)
        known = self.firing and self.form == PARAMETERS
        if known and ranks == self.named and layers == self.layers:
            return None
        share = blocks.size / prints.shape[1]
        if not known:
            self.firing, self.form = True, PARAMETERS
            self.low = max(self.equal_step + 1, self.first_step, 0)
            self.high = max(sample.step, self.low)
            if self.low <= self.seen_step <= self.high:
                self.high = self.seen_step
                if share == 1:
                    # What differs as a whole would have been met on any step before.
                    self.low = self.seen_step
        self.named, self.layers = ranks, layers
        buffers = sample.buffer_fingerprint[sample.buffer_fingerprint != 0]
        return self._verdict(
            sample.step,
            sample.parameter_ranks,
            blocks=len(sample.blocks),
            share=share,
            buffers_differ=bool(buffers.size > 1 and (buffers != buffers[0]).any()),
        )

    def _compare_buffers(self, sample: SampledObservation) -> Verdict | None:
        prints = sample.buffer_fingerprint
        prints = prints[prints != 0]
        if prints.size < 2 or (prints == prints[0]).all():
            self.equal_buffers = sample.step
            over = prints.size and self.firing and self.form == BUFFERS
            return self._resolved(sample.step, "Buffers are equal again") if over else None
        if self.firing:
            return None
        self.firing, self.form, self.named, self.layers = True, BUFFERS, (), ()
        self.low, self.high = max(self.equal_buffers + 1, self.first_step, 0), sample.step
        since = (self.low + self.high) // 2
        return Verdict(
            kind=self.kind,
            firing=True,
            step=sample.step,
            since_step=since,
            since_step_error=float(self.high - since),
            severity=Severity.INFO,
            confidence=0.99,
            score=float(prints.size),
            reason=f"Buffers differ across the {prints.size} replicas since step {since:,}, after the point where DDP "
            "would have made them equal: every rank keeps running statistics of its own.",
            evidence={"form": BUFFERS, "ranks_compared": int(prints.size)},
            advice=(
                "If this is not meant, leave broadcast_buffers=True or use SyncBatchNorm; else evaluate and save on one rank only.",
            ),
        )

    def _equal(self, step: int) -> Verdict | None:
        self.equal_step = step
        self.differing_gradients = 0
        # Samples come some steps after their own, and what those steps have shown stays.
        if self.firing and self.form == PARAMETERS and step < self.high:
            return None
        self.equal_samples += 1
        if self.seen_step <= step:
            self.seen_step = -1
            self.seen_steps = self.unlike_steps = 0
            self.compared = self.minority = ()
        over = self.firing and self.form == PARAMETERS and self.equal_samples >= self.config.resolve_samples
        return self._resolved(step, "Parameters have been equal again") if over else None

    def _resolved(self, step: int, what: str) -> Verdict:
        self.firing = False
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            since_step=(self.low + self.high) // 2,
            reason=f"{what} on {self.equal_samples} sampled steps, up to step {step:,}.",
            ranks=self.named,
            layers=self.layers,
        )

    def _verdict(
        self, step: int, compared: tuple[int, ...], *, blocks: int, share: float, buffers_differ: bool
    ) -> Verdict:
        """The finding as it is now.

        Args:
            step: The step that shows it.
            compared: Ranks whose parameters were compared.
            blocks: Blocks that were compared; 0 when only a few parameters were.
            share: Share of them that differ.
            buffers_differ: Whether buffers do, too.
        """
        when = (
            f"at step {self.low:,}"
            if self.low == self.high
            else f"between steps {self.low:,} and {self.high:,}"
        )
        majority = len(self.named) < len(compared)
        who = (
            f"{ranks_text(self.named)} left the majority"
            if majority
            else f"{ranks_text(self.named)} hold different parameters"
        )
        part = (
            "parameters that are compared at every step"
            if not blocks
            else "all blocks"
            if share == 1
            else f"{names_text(self.layers)} ({len(self.layers)} of {blocks} blocks)"
        )
        gradients = (
            f", although gradients were the same on all but {self.differing_gradients} steps"
            if self.differing_gradients
            else ", although their gradients were the same"
        )
        good = self.named and majority
        source = next((rank for rank in compared if rank not in self.named), compared[0])
        repair = (
            f"Copy the parameters and optimizer state of rank {source} to {ranks_text(self.named)} (broadcast), or restart "
            f"from a checkpoint from before step {self.low:,}."
            if good
            else f"Restart from a checkpoint from before step {self.low:,}: there is no majority to tell which copy is right."
        )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=(self.low + self.high) // 2,
            since_step_error=float(self.high - (self.low + self.high) // 2),
            confidence=0.99,
            score=float(len(self.layers) or self.seen_steps),
            threshold=0.0,
            reason=f"Replicas differ: {who} {when}, in {part}{gradients}.",
            evidence={
                "form": PARAMETERS,
                "last_equal_step": self.equal_step,
                "first_differing_step": self.high,
                "blocks_differing": len(self.layers),
                "blocks": blocks,
                "steps_with_differing_gradients": self.differing_gradients,
                "buffers_differ": buffers_differ,
            },
            advice=(
                repair,
                (
                    f"Look for code that changes weights on {ranks_text(self.named)} only, around steps {self.low:,} to "
                    f"{self.high:,}: loading, re-initialising, a skipped optimizer step; a single block and a single rank point "
                    "to faulty hardware."
                ),
            ),
            ranks=self.named,
            layers=self.layers,
        )
