"""The gradient noise scale from norms, against a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.analysis.noise_scale import NoiseScale
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.sampled import SampledObservation


def observation(step, local, reduced, samples, world=None):
    """A sampled step of which only the norms matter."""
    count = len(local)
    none = np.zeros((0, 1), np.uint64)
    return SampledObservation(
        step=step,
        attempt=0,
        world_size=world or count,
        ranks=tuple(range(count)),
        parallelism=Parallelism.DATA_PARALLEL,
        blocks=("all",),
        gradient_fingerprints=none,
        gradient_ranks=(),
        parameter_fingerprints=none,
        parameter_ranks=(),
        local_gradient_square=np.asarray(local, float),
        reduced_gradient_square=np.full(count, float(reduced)),
        update_square=np.zeros(count),
        parameter_square=np.ones(count),
        samples=np.asarray(samples, float),
        optimizer_state_step=np.zeros(count, np.int64),
        buffer_fingerprint=np.zeros(count, np.uint64),
        non_finite_blocks=((),) * count,
    )


def simulated(truth, batches, steps, seed=0, dimension=2000):
    """Gradients of a quadratic with noise such that `tr S / |G|^2` is `truth`."""
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal(dimension) / np.sqrt(dimension)
    deviation = np.sqrt(truth * float(mean @ mean) / dimension)
    scale = NoiseScale()
    for step in range(steps):
        local = [mean + deviation * rng.standard_normal(dimension) / np.sqrt(batch) for batch in batches]
        reduced = np.mean(local, axis=0)
        scale.update(observation(step, [float(g @ g) for g in local], float(reduced @ reduced), batches))
    return scale


@pytest.mark.parametrize("truth", [64, 512, 4096])
@pytest.mark.parametrize("batches", [(64,) * 4, (16, 16, 64), (128, 128)])
def test_it_finds_the_truth(truth, batches):
    """Within 25 % from 100 sampled steps, for equal and unequal batches."""
    assert simulated(truth, batches, 100).estimate() == pytest.approx(truth, rel=0.25)


def test_it_is_silent_while_it_does_not_know():
    """Few samples, or pure noise, give no number."""
    assert simulated(512, (64,) * 4, 5).estimate() is None
    assert simulated(1e7, (8, 8), 60).estimate() is None


def test_what_it_cannot_use_is_left_out():
    """One rank, unknown norms or no samples."""
    scale = NoiseScale()
    scale.update(observation(0, [1.0], 1.0, [8.0]))
    scale.update(observation(1, [np.nan, 1.0], 1.0, [8.0, 8.0]))
    scale.update(observation(2, [1.0, 1.0], 1.0, [0.0, 0.0]))
    assert scale.count == 0
