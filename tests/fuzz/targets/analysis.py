"""What the analysis makes of messages that passed the gateway, however absurd they are: in the middle of a run of some kind."""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from collections.abc import Iterator
from functools import cache
from random import Random

from google.protobuf.message import DecodeError

from fuzz.framing import join, rearrange, split
from fuzz.messages import change
from fuzz.telemetry import BLOCKS, RUN, batch, greeting, heartbeat
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.errors import InvalidInputError
from stallwatch.detector.http.render import dumps, finding_json, point_json, rank_json, run_json
from stallwatch.detector.ingest import limits
from stallwatch.detector.ingest.validate import LARGEST_STEP, check_batch, check_heartbeat, check_hello
from stallwatch.detector.store.codec import decode_finding, decode_view, encode_finding, encode_view
from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb

MAX_BYTES = 32_768
START = 1_700_000_000.0
INCARNATION = 1_700_000_000_000_000_000
MOST_MESSAGES = 3
MOST_STEPS = 6
"""In one input: more would test the same at less of a pace."""
LARGEST_WORLD = 64
"""A world of a million takes its memory by right, and the time of this process."""


def _item(now: float, rank: int, **payload: object) -> analyzer_pb2.AnalyzerInput:
    return analyzer_pb2.AnalyzerInput(
        received_unix_seconds=now, rank=rank, incarnation=INCARNATION + rank, **payload
    )


def _situations() -> Iterator[RunAnalysis]:
    """Runs at different points of their lives."""
    yield RunAnalysis(RUN)
    for batches, nan_from in ((1, 99), (30, 99), (30, 20)):
        analysis = RunAnalysis(RUN)
        for rank in range(2):
            apply(analysis, _item(START, rank, hello=greeting(rank)))
        for number in range(batches):
            for rank in range(2):
                told = batch(number + 1, 4 * number)
                if number >= nan_from:
                    told.steps.loss_sum[:] = [math.nan] * len(told.steps.loss_sum)
                apply(analysis, _item(START + number, rank, batch=told))
            apply(analysis, _item(START + number, 0, tick=analyzer_pb2.Tick()))
        yield analysis
        for rank in range(2):
            apply(analysis, _item(START + 100, rank, heartbeat=heartbeat(4 * batches)))
        apply(analysis, _item(START + 200, 0, tick=analyzer_pb2.Tick()))
        yield analysis


@cache
def situations() -> tuple[bytes, ...]:
    """Their snapshots: restoring one costs less than running there."""
    return tuple(map(snapshot.encode, _situations()))


@cache
def _messages() -> tuple[analyzer_pb2.AnalyzerInput, ...]:
    return (
        _item(START + 201, 0, hello=greeting()),
        _item(START + 202, 1, batch=batch(31, 120, 3)),
        _item(START + 203, 0, batch=batch(31, 120, 2)),
        _item(START + 204, 1, heartbeat=heartbeat(122)),
        _item(START + 205, 0, tick=analyzer_pb2.Tick()),
        _item(START + 206, 0, goodbye=pb.Goodbye(reason="finished", last_step=122)),
        _item(START + 207, 1, disconnect=analyzer_pb2.Disconnect(reason="stream ended")),
    )


def seeds() -> Iterator[bytes]:
    """A few messages in each situation."""
    for number in range(len(situations())):
        chosen = _messages()
        yield bytes([number]) + join(each.SerializeToString() for each in chosen[:3])
        yield bytes([number]) + join(each.SerializeToString() for each in chosen[3:])


def one(data: bytes) -> None:
    """No exception, no check that fails, and everything that is shown, saved and restored can be."""
    items = list(_taken(data[1:]))
    if not items and len(data) > 1:
        # Nothing comes through to the analysis, and what a tick does to it alone the seeds show.
        return
    known = situations()
    analysis = snapshot.decode(known[data[0] % len(known)] if data else known[0])
    now = analysis.state.now
    for item in items:
        # The actor lets no time go back, and the gateway's clock is a number.
        now = item.received_unix_seconds = max(now, item.received_unix_seconds)
        apply(analysis, item)
    apply(analysis, analyzer_pb2.AnalyzerInput(received_unix_seconds=now + 1.0, tick=analyzer_pb2.Tick()))
    if analysis.failures:
        raise AssertionError(f"signals or checks raised: {analysis.failures}")
    saved = snapshot.encode(analysis)
    if zlib.crc32(data) % 8 == 0:
        # These take longer than all of the above.
        _show(analysis)
        assert snapshot.encode(snapshot.decode(saved)) == saved, "what is restored is not what was saved"


def _taken(data: bytes) -> Iterator[analyzer_pb2.AnalyzerInput]:
    """What a gateway lets through."""
    steps = 0
    for part in split(data, MOST_MESSAGES):
        try:
            item = analyzer_pb2.AnalyzerInput.FromString(part)
        except DecodeError:
            continue
        steps += len(item.batch.steps.step)
        if steps <= MOST_STEPS and _passes(item):
            yield item


def _passes(item: analyzer_pb2.AnalyzerInput) -> bool:
    """Whether a gateway would have made this of a message."""
    when = item.received_unix_seconds
    if not (math.isfinite(when) and START <= when <= START + 1e7):
        return False
    if item.rank >= LARGEST_WORLD or item.incarnation == 0:
        return False
    payload = item.WhichOneof("input")
    with contextlib.suppress(InvalidInputError):
        if payload == "hello":
            check_hello(item.hello)
            # The gateway takes both from the greeting.
            item.rank, item.incarnation = item.hello.rank, item.hello.incarnation
            return (
                item.hello.world_size <= LARGEST_WORLD and item.hello.protocol_major == limits.PROTOCOL_MAJOR
            )
        if payload == "batch":
            check_batch(item.batch, len(BLOCKS))
        elif payload == "heartbeat":
            check_heartbeat(item.heartbeat)
        elif payload == "family":
            return False
        return True
    return False


def _show(analysis: RunAnalysis) -> None:
    view = analysis.view()
    json.loads(dumps(run_json(view)))
    json.loads(dumps([rank_json(each) for each in analysis.ranks()]))
    for finding in analysis.findings():
        json.loads(dumps(finding_json(finding)))
        decode_finding(encode_finding(finding))
    decode_view(encode_view(view))
    for name in analysis.series_names():
        json.loads(dumps([point_json(each) for each in analysis.series(name, 0, LARGEST_STEP, 20)]))


def mutate(data: bytes, random: Random) -> bytes:
    """Fields of the messages, their order, and the situation."""
    parts = split(data[1:], MOST_MESSAGES)
    first = data[:1] if data and random.random() < 0.9 else bytes([random.randrange(len(situations()))])
    if not parts or random.random() < 0.15:
        parts = [random.choice(_messages()).SerializeToString(), *parts]
    if random.random() < 0.2:
        rearrange(parts, random)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(parts))
        try:
            item = analyzer_pb2.AnalyzerInput.FromString(parts[place])
        except DecodeError:
            item = random.choice(_messages())
        change(item, random)
        parts[place] = item.SerializeToString()
    return first + join(parts[:MOST_MESSAGES])
