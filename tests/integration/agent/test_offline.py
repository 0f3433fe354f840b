"""Without a detector: what waits stays within its limit in bytes and comes when the detector does."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import psutil
import torch

from stallwatch.agent import attach
from stallwatch.agent._records import Losses, StepRecord
from support.telemetry_server import TelemetryServer
from support.waiting import wait_until

BENCH = Path(__file__).parents[2] / "bench" / "offline.py"
LIMIT_MIB = 8


def test_a_minute_without_a_detector(tmp_path):
    """A twentieth of the time of `tests/bench/offline.py`, twenty times as fast: a real detector comes, and has every step."""
    spec = importlib.util.spec_from_file_location("offline", BENCH)
    offline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(offline)
    result = offline.measure(tmp_path, minutes=1.5, speed=20.0)
    assert result["outage_steps"] == 900
    assert result["steps_lost"] == result["steps_dropped"] == result["agent_errors"] == 0
    assert result["peak_bytes"] < result["limit_bytes"]
    assert result["closed_in_order"]


def test_memory_of_a_full_buffer_is_within_its_limit(monkeypatch):
    """More steps than there is room for: the process grows by about the limit, and the oldest are lost and counted."""
    monkeypatch.setenv("STALLWATCH_BUFFER_MIB", str(LIMIT_MIB))
    monkeypatch.setattr("stallwatch.agent._transport.LONGEST_RETRY_SECONDS", 0.1)
    monkeypatch.setattr("stallwatch.agent._transport.OFFLINE_BATCH_SECONDS", 0.02)
    server = TelemetryServer()
    server.stop()
    model = torch.nn.Linear(2, 1)
    watch = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), run="full", endpoint=server.endpoint)
    core = watch._core
    gc.collect()
    before = psutil.Process().memory_info().rss
    made = peak = 0
    while not core.drops.total_steps or made % 1000:
        core.collector.add_record(synthetic(made))
        made += 1
        if made % 200 == 0:
            # As fast as they can be put into batches, and no faster.
            wait_until("room for records", lambda: not core.collector.crowded, interval=0.001)
            peak = max(peak, core.buffer.bytes + core.collector.bytes)
    wait_until("all to be in batches", core.collector.idle)
    growth = psutil.Process().memory_info().rss - before
    assert peak <= LIMIT_MIB << 20
    assert growth < (LIMIT_MIB + 12) << 20
    server.start()
    with server:
        wait_until("all to be durable", lambda: core.transport.connected and not len(core.buffer))
        watch.close()
        record = server.rank(0)
        lost = sum(record.dropped.values())
        assert len(record.steps) + lost == made
        assert record.steps == list(range(lost, made))


def synthetic(step: int) -> StepRecord:
    """A step as the probe delivers it, with numbers that take their full size on the wire."""
    losses = Losses()
    losses.add(0.1 + step, 8.0)
    print_ = (step * 0x9E3779B97F4A7C15) % (1 << 62)
    return StepRecord(
        step=step,
        losses=losses,
        micro_batches=1,
        learning_rates=(0.1 + step,),
        seconds=(1.1, 0.1, 0.2, 0.3, 0.1, 0.3),
        ddp_iteration=step,
        collectives=step,
        gradient_fingerprint=print_,
        optimizer_steps=1,
        produced_fingerprint=print_,
        parameters_before=print_,
        parameters_after=print_,
        inputs=[step.to_bytes(256, "little")],
    )
