"""Ranks that do not agree on which blocks there are: each column by block has the run's blocks, or nothing of a rank."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.analysis.align import AlignConfig, Aligner
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.core.inputs import RankBatch, SampledRecord
from stallwatch.detector.engine.apply import apply
from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb
from support.analyzer_inputs import item
from support.rank import hello, steps

COLUMNS = (
    "gradient_squares",
    "parameter_squares",
    "update_squares",
    "gradient_zero_shares",
    "gradient_zero_row_shares",
)


def record(blocks: int, broken: int) -> SampledRecord:
    """A sampled step of a model of so many blocks, one of which holds a NaN."""
    row = tuple(float(block + 1) for block in range(blocks))
    prints = tuple(range(blocks))
    return SampledRecord(
        0,
        1.0,
        1.0,
        1.0,
        1.0,
        gradient_fingerprints=prints,
        parameter_fingerprints=prints,
        non_finite_blocks=(broken,),
        **dict.fromkeys(COLUMNS, row),
    )


@pytest.mark.parametrize("names", [("a", "b", "c", "d"), ()])
def test_a_rank_of_another_width_has_no_say_by_block(names):
    """The run has four blocks, by its names or by the widest record."""
    aligner = Aligner()
    aligner.resize(2)
    aligner.blocks = names
    for rank, (blocks, broken) in enumerate(((4, 1), (5, 4) if names else (2, 0))):
        aligner.add(0.0, rank, RankBatch(sequence=1, samples=(record(blocks, broken),)), AlignConfig())
    (sample,) = aligner.drain(AlignConfig(), 0.0, everything=True)
    assert sample.blocks == (names or ("block0", "block1", "block2", "block3"))
    assert sample.gradient_ranks == sample.parameter_ranks == (0,)
    for column in COLUMNS:
        values = getattr(sample, column)
        assert values.shape == (2, 4)
        assert np.isnan(values[1]).all()
        assert values[0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert sample.any_non_finite() == {1}


def test_a_run_whose_ranks_have_different_models_is_analyzed():
    """No signal and no check fails on it."""
    analysis = RunAnalysis("run")
    for rank, blocks in enumerate((("a", "b", "c", "d"), ("a", "b", "c", "d", "e"))):
        apply(analysis, item(0.0, rank=rank, hello=hello("run", rank, 2, blocks=blocks)))
    for number in range(3):
        for rank, blocks in enumerate((4, 5)):
            row = [0.5] * blocks
            told = pb.SampledRecord(
                step=10 * number,
                local_gradient_square=1.0,
                reduced_gradient_square=1.0,
                update_square=1.0,
                parameter_square=1.0,
                gradient_fingerprints=range(1, blocks + 1),
                non_finite_blocks=[blocks - 1],
                **dict.fromkeys(COLUMNS, row),
            )
            batch = pb.Batch(sequence=number + 1, steps=steps(10 * number, 10), samples=[told])
            apply(analysis, item(float(number), rank=rank, batch=batch))
        apply(analysis, item(float(number), tick=analyzer_pb2.Tick()))
    assert not analysis.failures
