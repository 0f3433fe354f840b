"""The noise scale of real gloo jobs, from what real agents send, against per-sample gradients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.engine.decode import decode_batch, decode_hello
from support.noise_job import SAMPLES, STEPS
from support.ranks import Ranks
from support.telemetry_server import TelemetryServer

RANKS = 2


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Iterator[tuple[TelemetryServer, float]]:
    """All jobs in one pair of processes, and the truth."""
    folder = tmp_path_factory.mktemp("noise")
    script = Path(__file__).parents[2] / "support" / "noise_job.py"
    with (
        TelemetryServer() as server,
        Ranks(folder, server.endpoint, *SAMPLES, script=script) as ranks,
    ):
        ranks.finish()
        yield server, json.loads((folder / "truth.json").read_text())


@pytest.mark.parametrize("run", SAMPLES)
def test_it_is_that_of_the_per_sample_gradients(job, run):
    """With equal and unequal batches, accumulation, and gradients clipped to a hundredth before the optimizer sees them."""
    server, truth = job
    analysis = RunAnalysis(run)
    records = [server.rank(rank, run) for rank in range(RANKS)]
    hellos = [decode_hello(record.hellos[0]) for record in records]
    for hello in hellos:
        analysis.hello(1000.0, hello)
    for record, hello in zip(records, hellos, strict=True):
        assert len(record.samples) == STEPS
        for batch in record.batches:
            analysis.batch(1001.0, hello.rank, hello.incarnation, decode_batch(batch))
    for hello in hellos:
        analysis.goodbye(1002.0, hello.rank, hello.incarnation, "finished", STEPS - 1)
    seen = analysis.state.noise_scale
    assert seen.low < truth < seen.high
    assert seen.scale == pytest.approx(truth, rel=0.15)
    assert seen.effective_batch == sum(SAMPLES[run])
    assert analysis.view().batch_over_critical == pytest.approx(seen.noise_batch / seen.scale)
