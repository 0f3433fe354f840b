"""Restoring an analysis from bytes that are not what was saved: torn, altered, of another version."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from fuzz.targets.analysis import situations
from fuzz.trees import changed
from stallwatch.detector.engine import snapshot

MAX_BYTES = 131_072
_HEADER = snapshot._HEADER
_RAW, _SEALED = 0, 1


def seeds() -> Iterator[bytes]:
    """Of each situation, sealed by the right checksum and as it is."""
    for data in situations()[:5]:
        yield bytes([_SEALED]) + data[_HEADER.size :]
    yield bytes([_RAW]) + situations()[0]


def one(data: bytes) -> None:
    """Restored, or refused in one way."""
    body = data[1:]
    if data[:1] == bytes([_SEALED]):
        # Behind the checksum, so that what is after it is reached.
        digest = hashlib.sha256(body).digest()
        body = _HEADER.pack(snapshot._MAGIC, snapshot._VERSION, len(body), digest) + body
    with contextlib.suppress(snapshot.SnapshotError):
        snapshot.decode(body)


def mutate(data: bytes, random: Random) -> bytes:
    """A value of the state: another one, or of another type."""
    try:
        body: dict[str, Any] = msgspec.msgpack.decode(data[1:])
        parts = dict(body)
        for _ in range(random.randint(1, 2)):
            parts = changed(parts, random)
        return bytes([_SEALED]) + msgspec.msgpack.encode(parts)
    except (msgspec.MsgspecError, OverflowError, TypeError, ValueError, RecursionError):
        return data
