"""Inputs of an analyzer, as the gateway would hand them on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import hello, steps

START = 1_700_000_000.0
INCARNATION = 1_700_000_000_000_000_000


def item(now: float, rank: int = 0, **payload) -> analyzer_pb2.AnalyzerInput:
    """One input."""
    return analyzer_pb2.AnalyzerInput(
        received_unix_seconds=now, rank=rank, incarnation=INCARNATION + rank, **payload
    )


def a_run(
    run: str, ranks: int = 2, batches: int = 12, nan_at_batch: int | None = None
) -> Iterator[analyzer_pb2.AnalyzerInput]:
    """A short run: greetings, batches of ten steps, heartbeats and ticks, goodbyes."""
    now = START
    for rank in range(ranks):
        yield item(now, rank, hello=hello(run, rank, ranks))
    for number in range(batches):
        for rank in range(ranks):
            now += 0.25
            loss = math.nan if number == nan_at_batch and rank == 0 else 2.0 - 0.01 * number
            batch = pb.Batch(sequence=number + 1, steps=steps(10 * number, 10, loss))
            yield item(now, rank, batch=batch)
            beat = pb.Heartbeat(
                phase=pb.PHASE_FORWARD, last_step=10 * number, ddp_iteration=-1, collectives=-1
            )
            yield item(now, rank, heartbeat=beat)
        now += 0.5
        yield analyzer_pb2.AnalyzerInput(received_unix_seconds=now, tick=analyzer_pb2.Tick())
    for rank in range(ranks):
        now += 0.1
        yield item(now, rank, goodbye=pb.Goodbye(reason="finished", last_step=10 * batches - 1))
