"""What the analysis sees: immutable observations in a deterministic order.

Ranks are reduced to run-level observations by `analysis.align` before a signal or check sees them. Arrays of per-rank
values are indexed like `ranks`: `loss_sum[i]` belongs to rank `ranks[i]`. Steps are optimizer steps, counted from 0;
durations are seconds; a value that a rank did not report is NaN (floats) or -1 (integers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import LossKind, Parallelism

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def _no_integers() -> Integers:
    return np.zeros(0, np.int64)


def _no_floats() -> Floats:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class StepObservation:
    """One optimizer step of the whole run, all reporting ranks aligned."""

    step: int
    """Optimizer step, from 0."""
    attempt: int
    """Which incarnation of the job this is: 0 at first, one more after each restart."""
    world_size: int
    """Ranks the job says it has; `ranks` may be fewer when some are late, lost or never attached."""
    ranks: tuple[int, ...]
    """The ranks that reported this step, ascending."""
    loss_sum: Floats
    """Sum over this rank's samples of the loss it logged (mean loss times samples), shape (ranks,)."""
    samples: Floats
    """Samples behind `loss_sum`, shape (ranks,)."""
    micro_batches: Integers
    """Backward passes since the previous optimizer step, shape (ranks,)."""
    learning_rates: tuple[float, ...]
    """Learning rate per parameter group, from the lowest reporting rank."""
    step_seconds: Floats
    input_seconds: Floats
    forward_seconds: Floats
    backward_seconds: Floats
    """Forward's end to the last local gradient being ready, shape (ranks,)."""
    sync_seconds: Floats
    """Exposed wait for gradients: last local gradient ready to the end of backward, plus waits for buffers."""
    optimizer_seconds: Floats
    ddp_iterations: Integers
    """DDP's own count of synchronised forward passes, cumulative; -1 when the model is not DDP."""
    collectives: Integers
    """Collectives issued on the model's process group, cumulative; -1 when unknown."""
    gradient_fingerprint: Integers
    """Bit-exact sum over sentinel slices of the gradient the optimizer saw; -1 when none was taken."""
    sync_expected: bool = True
    """Whether replicas are meant to be averaged every step (DDP), as opposed to sharded, local or single."""
    parallelism: Parallelism = Parallelism.UNSPECIFIED
    """How the replicas relate, where the agents know."""
    optimizer_steps: Integers = field(default_factory=_no_integers)
    """Calls of optimizer.step behind this record: 1 as a rule. This and what follows: empty when no rank reports it."""
    produced_fingerprint: Integers = field(default_factory=_no_integers)
    """Like `gradient_fingerprint`, of the gradient as the last backward left it; -1 when none was taken."""
    gradient_lag: Integers = field(default_factory=_no_integers)
    """Age in steps of the gradient that the optimizer saw: 0 fresh, -1 unknown, -2 edited beyond a factor, -3 added to that
    of the step before, which was not cleared."""
    gradient_scale: Floats = field(default_factory=_no_floats)
    """Factor of the gradient that the optimizer saw to the one that the backward left; NaN when unknown."""
    input_fingerprint: Integers = field(default_factory=_no_integers)
    """Checksum of this rank's inputs; -1 when unknown."""
    learning_rate_sums: Floats = field(default_factory=_no_floats)
    """Sum over parameter groups of each rank's learning rates; NaN when unknown."""
    parameters_before: Integers = field(default_factory=_no_integers)
    parameters_after: Integers = field(default_factory=_no_integers)
    """Fingerprints of the same slices of the parameters before and after the step; -1 when none was taken."""

    def mean_loss(self) -> float:
        """The sample-weighted loss over all reporting ranks; NaN when no rank logged one."""
        missing = np.isnan(self.loss_sum)
        if missing.any():
            logged = ~missing
            samples, total = float(self.samples[logged].sum()), float(self.loss_sum[logged].sum())
        else:
            samples, total = float(self.samples.sum()), float(self.loss_sum.sum())
        return total / samples if samples > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class EvaluationObservation:
    """One evaluation of the whole run: the sample-weighted mean over the ranks that reported it."""

    step: int
    loss: float
    samples: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NamedLossObservation:
    """One step's loss of a group of samples, or of a term of a composite loss: the sample-weighted mean over ranks."""

    step: int
    kind: LossKind
    name: str
    loss: float
    samples: float
    """Of the group, over all ranks that reported it; of a component, those of the step."""


@dataclass(frozen=True, slots=True)
class EventObservation:
    """Something the user or the agent says has changed at a step (LR cut, restart, augmentation, freeze)."""

    step: int
    kind: str
    text: str
    automatic: bool = False


@dataclass(frozen=True, slots=True)
class AttemptObservation:
    """A new incarnation of the job began: state tied to processes must be forgotten."""

    step: int
    attempt: int
    world_size: int


@dataclass(frozen=True, slots=True)
class RunDeclaration:
    """What the ranks said of themselves when they attached.

    Comes before the first step of an attempt, and again before the next step once any of it has changed. Numbers are of
    the lowest rank that has attached; 0 and empty text stand for what was not declared.
    """

    step: int
    """The step that it comes before."""
    attempt: int
    world_size: int
    parallelism: Parallelism
    backend: str
    """Of torch.distributed."""
    device: str
    model: str
    optimizer: str
    """Class names, for words: `GPT`, `AdamW`."""
    parameters: int
    trainable_parameters: int
    sample_period: int
    """Sampled records are taken at steps that are a multiple of this; it may change while the job runs."""
    dataset_size: int
    """Samples."""
    base_learning_rate: float
    base_batch_size: float
    """Samples of the effective batch that `base_learning_rate` was chosen for."""
    local_steps: int
    """Steps between synchronisations, where replicas differ on purpose."""
    total_steps: int
    """Optimizer steps that the run is meant to take."""
    accumulation_steps: int = 0
    """Micro-batches an optimizer step."""
    block_elements: tuple[int, ...] = ()
    """Elements of each block of parameters; empty when unknown."""
    hosts: Mapping[int, str] = field(default_factory=dict)
    """Host name of each rank that has attached."""
