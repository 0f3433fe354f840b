"""Numbers of any size that the protocol lets through: from 1e-300 to the end of float64, some of which jump from one size to another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fuzz.telemetry import batch, greeting
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.core.magnitudes import LARGEST, number_within, sums_within, within
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.ingest.validate import check_batch
from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb

START = 1.7e9
INCARNATION = 1_700_000_000_000_000_000
BATCHES, STEPS = 40, 8
SECONDS = tuple(f"{part}_seconds" for part in ("step", "input", "forward", "backward", "sync", "optimizer"))
SQUARES = tuple(
    f"{of}_square"
    for of in ("local_gradient", "reduced_gradient", "produced_gradient", "update", "parameter")
)
BY_BLOCK = ("gradient_squares", "parameter_squares", "update_squares")
SINGLE = (*SECONDS, *BY_BLOCK, "gradient_scale")
"""A float32 on the wire."""


class Course:
    """One number over a run: of some size, after some batch often of another one, with some noise."""

    def __init__(self, random: np.random.Generator, *, single: bool) -> None:
        self._random = random
        least, self._most = (-40, 3e38) if single else (-300, 1.7e308)
        self._sizes = random.uniform(least, math.log10(self._most), 2)
        self._jump = int(random.integers(0, 2 * BATCHES))
        self._noise = float(random.choice([0.0, 1e-6, 0.05, 1.0]))

    def at(self, number: int, count: int = 1, times: float = 1.0) -> list[float]:
        """So many values of a batch."""
        size = 10.0 ** self._sizes[int(number >= self._jump)]
        with np.errstate(over="ignore"):
            drawn: NDArray[np.float64] = (
                size * np.exp(self._noise * self._random.standard_normal(count)) * times
            )
        return np.minimum(drawn, self._most).tolist()


def _analysis(seed: int) -> RunAnalysis:
    random = np.random.default_rng(seed)
    world = int(random.choice([1, 2, 4]))
    fields = (*SECONDS, *SQUARES, *BY_BLOCK)
    names = ("loss_sum", "samples", "gradient_scale", "evaluation", "metric", "named", *fields)
    courses = {name: Course(random, single=name in SINGLE) for name in names}
    odd, times = int(random.integers(0, world)), 10.0 ** random.uniform(-200, 200)
    analysis = RunAnalysis("team/run:1")
    for rank in range(world):
        _apply(analysis, 0, rank, hello=greeting(rank, world))
    for number in range(BATCHES):
        for rank in range(world):
            told = batch(number + 1, STEPS * number, STEPS)
            del told.dropped[:]
            _fill(told, courses, number, times if rank == odd and seed % 2 else 1.0)
            check_batch(told, 4)
            _apply(analysis, number, rank, batch=told)
        _apply(analysis, number, 0, tick=analyzer_pb2.Tick())
    return analysis


def _fill(told: pb.Batch, courses: dict[str, Course], number: int, times: float) -> None:
    def put(column: object, name: str, count: int = STEPS) -> None:
        del column[:]
        column.extend(courses[name].at(number, count, times if name == "loss_sum" else 1.0))

    for name in ("loss_sum", "samples", "gradient_scale", *SECONDS):
        put(getattr(told.steps, name), name)
    (sampled,), (evaluation,) = told.samples, told.evaluations
    for name in SQUARES:
        of = times if name.startswith("local") else 1.0
        setattr(sampled, name, courses[name].at(number, times=of)[0])
    for name in BY_BLOCK:
        put(getattr(sampled, name), name, 4)
    (evaluation.loss,), (evaluation.metrics["accuracy"],) = (
        courses[name].at(number) for name in ("evaluation", "metric")
    )
    for named in told.named_losses:
        put(named.loss_sum, "named")


def _apply(analysis: RunAnalysis, number: int, rank: int, **payload: object) -> None:
    now = START + 4 * number
    apply(
        analysis,
        analyzer_pb2.AnalyzerInput(
            received_unix_seconds=now, rank=rank, incarnation=INCARNATION + rank, **payload
        ),
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(6))
def test_no_size_of_a_number_makes_a_signal_or_check_fail(seed):
    """Python's floats raise where numpy's say infinity."""
    assert not _analysis(seed).failures


def test_what_is_too_large_is_as_large_as_can_be_and_what_is_not_finite_stays():
    """An infinite loss is a finding, a loss of 1e300 is a large one."""
    values = [1e300, -1e300, 2.0, math.inf, -math.inf, math.nan]
    expected = [LARGEST, -LARGEST, 2.0, math.inf, -math.inf, math.nan]
    np.testing.assert_array_equal(within(np.array(values)), expected)
    np.testing.assert_array_equal(list(map(number_within, values)), expected)


def test_a_sum_is_bounded_by_its_mean():
    """A sum over many samples may be larger; one over a tiny share of a sample must be smaller."""
    sums, counts = np.array([1e62, 1e300, 1e300, 1e300]), np.array([1e6, 1e6, 1e-300, 0.0])
    bounded = sums_within(sums, counts)
    assert bounded[0] == 1e62
    assert bounded[1:3] / counts[1:3] == pytest.approx(LARGEST)
    assert bounded[3] == LARGEST
