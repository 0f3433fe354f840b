"""From the wire to arrays."""

from __future__ import annotations

import math

import numpy as np

from stallwatch.detector.core.inputs import Parallelism, Phase
from stallwatch.detector.engine.decode import decode_batch, decode_heartbeat, decode_hello
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import hello


def test_columns_that_are_not_measured_are_unknown():
    """NaN for floats, -1 for integers, and no learning rate groups."""
    block = decode_batch(
        pb.Batch(sequence=3, steps=pb.StepBatch(step=[4, 5], loss_sum=[1, math.nan], samples=[2, 2]))
    ).steps
    assert block.step.tolist() == [4, 5]
    assert np.isnan(block.loss_sum).tolist() == [False, True]
    assert np.isnan(block.step_seconds).all()
    assert block.collectives.tolist() == [-1, -1]
    assert block.learning_rate.shape == (2, 0)


def test_learning_rates_have_a_row_a_step():
    """They come one step after another, and durations a hair below zero are zero."""
    sent = pb.StepBatch(
        step=[0, 1],
        samples=[1, 1],
        learning_rate=[1, 2, 3, 4],
        learning_rate_groups=2,
        input_seconds=[-1e-9, 1],
    )
    block = decode_batch(pb.Batch(sequence=1, steps=sent)).steps
    assert block.learning_rate.tolist() == [[1, 2], [3, 4]]
    assert block.input_seconds.tolist() == [0, 1]


def test_a_batch_may_be_without_steps():
    """As one that only says what was lost."""
    decoded = decode_batch(
        pb.Batch(sequence=9, dropped=[pb.Dropped(reason=pb.DROP_REASON_REJECTED, count=4)])
    )
    assert decoded.steps is None
    assert (decoded.sequence, decoded.dropped[0].reason, decoded.dropped[0].count) == (9, "rejected", 4)


def test_what_a_newer_agent_means_is_unspecified():
    """An enum value of a newer minor version is no error."""
    greeting = hello("run")
    greeting.ClearField("parallelism")
    greeting.MergeFromString(pb.Hello(parallelism=77).SerializeToString())
    assert decode_hello(greeting).parallelism is Parallelism.UNSPECIFIED
    assert decode_heartbeat(pb.Heartbeat(phase=99)).phase is Phase.UNSPECIFIED
