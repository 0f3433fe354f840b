"""What the gateway accepts, and how it says what is wrong with the rest."""

from __future__ import annotations

import math
import re

import pytest

from stallwatch.detector.errors import InvalidInputError
from stallwatch.detector.ingest.validate import check_batch, check_heartbeat, check_hello
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import hello, steps

NAN, INF = math.nan, math.inf


def batch(**fields) -> pb.Batch:
    """A batch with a sequence."""
    return pb.Batch(sequence=1, **fields)


def with_column(name: str, values: list) -> pb.Batch:
    """Four healthy steps, one column replaced."""
    block = steps(0, 4)
    del getattr(block, name)[:]
    getattr(block, name).extend(values)
    return batch(steps=block)


@pytest.mark.parametrize("name", ["a", "7", "team/llama:v2.1_x-y", "a" * 128])
def test_good_run_names_are_taken(name):
    """Letters, digits and the five marks, starting with a letter or digit."""
    check_hello(hello(name))


@pytest.mark.parametrize("name", ["", "-a", "/a", "a b", "ä", "a\n", "a\x00", "a" * 129, "a;drop", "<b>"])
def test_bad_run_names_are_refused_by_name(name):
    """The error names the field."""
    with pytest.raises(InvalidInputError, match=r"^hello\.run ") as error:
        check_hello(hello(name))
    assert error.value.field == "hello.run"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rank": 8, "world_size": 8}, "hello.rank is 8 in a world of 8: ranks are 0 to 7"),
        ({"world_size": 0}, "hello.world_size is 0: it must be 1 to"),
        ({"incarnation": 0}, "hello.incarnation is 0"),
        ({"group": "a b"}, "hello.group is 'a b'"),
        ({"hostname": "h" * 300}, "hello.hostname has 300 characters: at most 256"),
        ({"blocks": ["b"] * 513}, "hello.blocks has 513 blocks: at most 512"),
        ({"base_learning_rate": NAN}, "hello.base_learning_rate is NaN: it must be finite"),
    ],
)
def test_a_bad_hello_is_refused_with_field_and_fix(fields, says):
    """What is wrong and what would be right."""
    with pytest.raises(InvalidInputError, match="^" + re.escape(says)):
        check_hello(hello("run", **fields))


@pytest.mark.parametrize(
    ("wrong", "field", "says"),
    [
        (
            with_column("samples", [8, 8, 8, NAN]),
            "steps.samples[3]",
            "steps.samples[3] is NaN: samples must be finite and not negative",
        ),
        (with_column("samples", [8, -1, 8, 8]), "steps.samples[1]", "steps.samples[1] is -1.0: samples must"),
        (with_column("samples", [8, INF, 8, 8]), "steps.samples[1]", "steps.samples[1] is inf"),
        (with_column("samples", [8]), "steps.samples", "steps.samples has 1 values for 4 steps"),
        (with_column("step", [0, 1, 1, 2]), "steps.step[2]", "steps.step[2] is 1 after 1"),
        (with_column("step", [0, 1, 2, 2**63]), "steps.step[3]", "steps.step[3] is 9223372036854775808"),
        (with_column("step", range(5000)), "steps.step", "steps.step has 5000 steps: at most 4096"),
        (
            with_column("step_seconds", [-1, 0, 0, 0]),
            "steps.step_seconds[0]",
            "steps.step_seconds[0] is -1.0",
        ),
        (
            with_column("learning_rate", [0.1]),
            "steps.learning_rate",
            "steps.learning_rate has 1 values for 4",
        ),
        (with_column("collectives", [-2, 0, 0, 0]), "steps.collectives[0]", "steps.collectives[0] is -2"),
        (pb.Batch(), "sequence", "sequence is 0: batches are counted from 1"),
        (
            batch(samples=[pb.SampledRecord(update_square=-1)]),
            "samples[0].update_square",
            "samples[0].update_square is -1.0",
        ),
        (batch(samples=[pb.SampledRecord(samples=NAN)]), "samples[0].samples", "samples[0].samples is NaN"),
        (
            batch(samples=[pb.SampledRecord(gradient_fingerprints=[1, 2, 3])]),
            "samples[0].gradient_fingerprints",
            "samples[0].gradient_fingerprints has 3 values, and hello.blocks 2 names",
        ),
        (
            batch(samples=[pb.SampledRecord(non_finite_blocks=[2])]),
            "samples[0].non_finite_blocks[0]",
            "samples[0]",
        ),
        (
            batch(evaluations=[pb.EvaluationPoint(samples=-1)]),
            "evaluations[0].samples",
            "evaluations[0].samples is -1",
        ),
        (batch(events=[pb.Event(kind="Mix Up")]), "events[0].kind", "events[0].kind is 'Mix Up'"),
        (batch(events=[pb.Event(kind="mixup", text="x" * 600)]), "events[0].text", "events[0].text has 600"),
        (
            batch(named_losses=[pb.NamedLoss(name="kl", step=[1])]),
            "named_losses[0].loss_sum",
            "named_losses[0].loss_sum has 0",
        ),
    ],
)
def test_a_bad_batch_is_refused_with_field_and_fix(wrong, field, says):
    """What is wrong, at which index, and what would be right."""
    with pytest.raises(InvalidInputError, match="^" + re.escape(says)) as error:
        check_batch(wrong, blocks=2)
    assert error.value.field == field


def test_a_good_batch_is_taken():
    """Unknown values are NaN or -1, a loss may be anything, and a clock may be a hair off."""
    block = steps(0, 4)
    block.loss_sum[:] = [NAN, INF, -3.0, 1.0]
    block.input_seconds[:] = [NAN, -1e-9, 0.0, 1.0]
    block.collectives.extend([-1, 0, 1, 2])
    record = pb.SampledRecord(
        step=1,
        local_gradient_square=NAN,
        reduced_gradient_square=INF,
        gradient_fingerprints=[1, 2],
        samples=4,
    )
    named = pb.NamedLoss(name="kl", step=[1, 2], loss_sum=[1, NAN], samples=[1, 1])
    check_batch(batch(steps=block, samples=[record], named_losses=[named]), blocks=2)
    check_batch(batch(), blocks=0)


def test_a_bad_heartbeat_is_refused():
    """A phase cannot last NaN seconds, and a stack has its limit."""
    with pytest.raises(InvalidInputError, match=r"heartbeat\.phase_seconds is NaN"):
        check_heartbeat(pb.Heartbeat(phase_seconds=NAN))
    with pytest.raises(InvalidInputError, match=r"heartbeat\.stack has 20000 characters"):
        check_heartbeat(pb.Heartbeat(stack="x" * 20_000))


@pytest.mark.parametrize("name", ["gradient_squares", "parameter_squares", "update_squares"])
def test_squares_of_blocks_are_not_negative(name):
    """Their roots are taken; NaN is what a block without any has. Found by fuzzing."""
    record = pb.SampledRecord(step=1)
    getattr(record, name).extend([1.0, float("nan")])
    check_batch(pb.Batch(sequence=1, samples=[record]), 2)
    getattr(record, name)[1] = -1.0
    with pytest.raises(InvalidInputError, match=rf"samples\[0\].{name}\[1\] is -1.0"):
        check_batch(pb.Batch(sequence=1, samples=[record]), 2)
