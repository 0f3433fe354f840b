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

from stallwatch.detector.core.inputs import Parallelism

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
