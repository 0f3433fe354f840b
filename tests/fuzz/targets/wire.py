"""What a gateway does with the bytes of a stream's message, up to what the analysis is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random

from google.protobuf.message import DecodeError

from fuzz.messages import change
from fuzz.telemetry import BLOCKS, greeting, messages
from stallwatch.detector.engine.decode import decode_batch, decode_heartbeat, decode_hello
from stallwatch.detector.errors import InvalidInputError
from stallwatch.detector.ingest.stream import _remains
from stallwatch.detector.ingest.validate import check_batch, check_heartbeat, check_hello
from stallwatch.v1 import telemetry_pb2 as pb

MAX_BYTES = 32_768


def seeds() -> Iterator[bytes]:
    """Messages of a real rank."""
    for message in (pb.StreamRequest(hello=greeting()), *messages()):
        yield message.SerializeToString()


def one(data: bytes) -> None:
    """Refused with the field named, or taken."""
    try:
        request = pb.StreamRequest.FromString(data)
    except DecodeError:
        return
    payload = request.WhichOneof("payload")
    with contextlib.suppress(InvalidInputError):
        if payload == "hello":
            check_hello(request.hello)
            decode_hello(request.hello)
        elif payload == "heartbeat":
            check_heartbeat(request.heartbeat)
            decode_heartbeat(request.heartbeat)
        elif payload == "batch":
            _batch(request.batch)


def _batch(batch: pb.Batch) -> None:
    try:
        check_batch(batch, len(BLOCKS))
    except InvalidInputError as error:
        if not (error.field and str(error)):
            raise AssertionError("a refusal names no field, or does not say what is wrong") from error
        if error.field != "sequence":
            rest = _remains(batch)
            check_batch(rest, len(BLOCKS))
            decode_batch(rest)
        return
    decode_batch(batch)


def mutate(data: bytes, random: Random) -> bytes:
    """Some fields of the message."""
    try:
        request = pb.StreamRequest.FromString(data)
    except DecodeError:
        request = random.choice(messages())
    for _ in range(random.randint(1, 4)):
        change(request, random)
    return request.SerializeToString()
