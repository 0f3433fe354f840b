"""Runs that learn for a while and go flat, as their ranks would tell it."""

from __future__ import annotations

import numpy as np

from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import steps

BATCH_STEPS = 100


def flat_steps(
    count: int, floor: float, rate: float = 0.1, seed: int = 1, samples: float = 8.0
) -> list[pb.StepBatch]:
    """Batches of steps of a run whose loss falls from 2.3 to a floor within some hundred steps, with noise of a seed."""
    step = np.arange(count)
    noise = np.random.default_rng(seed).normal(size=count)
    losses = (floor + (2.3 - floor) * np.exp(-step / 60)) * (1 + 0.02 * noise)
    blocks = []
    for first in range(0, count, BATCH_STEPS):
        block = steps(first, BATCH_STEPS, samples=samples)
        del block.loss_sum[:], block.learning_rate[:]
        block.loss_sum.extend((losses[first : first + BATCH_STEPS] * samples).tolist())
        block.learning_rate.extend([rate] * BATCH_STEPS)
        blocks.append(block)
    return blocks
