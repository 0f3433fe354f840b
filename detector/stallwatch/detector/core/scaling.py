"""What the analysis says about the batch: how much of the gradient is noise, and so what more samples a step are worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoiseScaleObservation:
    """The gradient noise scale after one sampled step, over the latest sampled steps. Batches are in samples."""

    step: int
    attempt: int
    world_size: int
    scale: float | None
    """`tr S / |G|^2`: the batch whose gradient is as much noise as signal. None while its relative error is 0.5 or more."""
    low: float
    """97.5 % interval; it holds whether or not `scale` is published, as the bound that is known."""
    high: float
    """Infinite while the data do not rule out that the gradient is nothing but noise."""
    relative_error: float
    """One standard error as a share of the scale; infinite where no scale fits."""
    sampled_steps: int
    """Sampled steps behind the estimate."""
    effective_batch: float
    """Samples of all ranks behind one optimizer step."""
    noise_batch: float
    """Samples whose plain mean is as noisy as the average over ranks: less than `effective_batch` where ranks contribute
    unequal batches and are averaged as equals."""
    batch_over_critical: float | None
    """`noise_batch / scale`."""
    efficiency: float | None
    """Progress of a sample relative to one in a small batch, `1 / (1 + noise_batch / scale)`."""
    agreement: float
    """Squared norm of the averaged gradient over that of the ranks' own: 1 where all are equal, 1/N for pure noise."""
    effective_ranks: float
    """`1 / agreement`, at most the world size: ranks whose gradients would differ as much if all were noise."""
