"""Restoring an analysis from bytes that are not what was saved: torn, altered, of another version."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from fuzz.targets.analysis import situations
from fuzz.trees import changed
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.migrations import FORMAT
from support.snapshots import sealed

MAX_BYTES = 131_072
_HEADER = snapshot._HEADER
_RAW, _SEALED, _BEFORE = 0, 1, 2
"""As it is; behind a right checksum, so that what is after it is reached; the same in the format before, which is migrated."""
_FORMATS = {_SEALED: FORMAT, _BEFORE: FORMAT - 1}


def seeds() -> Iterator[bytes]:
    """Of each situation, sealed by the right checksum and as it is."""
    for data in situations()[:5]:
        for tag in _FORMATS:
            yield bytes([tag]) + data[_HEADER.size :]
    yield bytes([_RAW]) + situations()[0]


def one(data: bytes) -> None:
    """Restored, or refused in one way."""
    body = data[1:]
    if data and data[0] in _FORMATS:
        body = sealed(_FORMATS[data[0]], body)
    with contextlib.suppress(snapshot.SnapshotError):
        snapshot.decode(body)


def mutate(data: bytes, random: Random) -> bytes:
    """A value of the state: another one, or of another type."""
    try:
        body: dict[str, Any] = msgspec.msgpack.decode(data[1:])
        parts = dict(body)
        for _ in range(random.randint(1, 2)):
            parts = changed(parts, random)
        return data[:1] + msgspec.msgpack.encode(parts)
    except (msgspec.MsgspecError, OverflowError, TypeError, ValueError, RecursionError):
        return data
