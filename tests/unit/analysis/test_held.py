"""What waits for other ranks is bounded in numbers, whatever the records hold."""

from __future__ import annotations

import pytest

from stallwatch.detector.analysis.align import AlignConfig, Aligner
from stallwatch.detector.core.inputs import RankBatch, SampledRecord


def sample(step: int, values: int) -> RankBatch:
    """A sampled record of so many numbers."""
    record = SampledRecord(step, 1.0, 1.0, 1.0, 1.0, gradient_squares=(1.0,) * values)
    return RankBatch(sequence=1, samples=(record,))


def test_samples_of_the_oldest_steps_give_way():
    """They count as late; the newest are there when their step comes."""
    aligner = Aligner()
    aligner.resize(4)
    config = AlignConfig(held_values=10_000)
    for step in range(50):
        for rank in range(3):
            aligner.add(0.0, rank, sample(step, 500), config)
    assert aligner.held_values <= 10_000
    kept = [step for step, held in aligner.held.items() if held.samples]
    assert kept == list(range(kept[0], 50))
    assert kept[0] == 50 - len(kept)
    assert aligner.late_records == 3 * kept[0]
    observed = list(aligner.drain(config, 0.0, everything=True))
    assert [each.step for each in observed] == kept
    assert aligner.held_values == 0


def test_a_bound_must_hold_something():
    """Or no sample would ever be compared."""
    with pytest.raises(ValueError, match="held_values must be at least 16"):
        AlignConfig(held_values=0)
