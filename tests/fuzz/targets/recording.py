"""Reading a recording that is torn, damaged, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random

from fuzz.files import filled
from fuzz.messages import change
from stallwatch.detector.engine.recording import RecordingError, _length_prefix, read_recording
from support.analyzer_inputs import a_run

MAX_BYTES = 16_384


def seeds() -> Iterator[bytes]:
    """A short run as it is recorded, and its beginning."""
    items = list(a_run("run", 1, 3))
    for some in (items, items[:2], []):
        yield b"".join(_length_prefix(each.ByteSize()) + each.SerializeToString() for each in some)


def one(data: bytes) -> None:
    """Its inputs, or one kind of error."""
    with contextlib.suppress(RecordingError):
        for _item in read_recording(filled("run.stallwatch", data)):
            pass


def mutate(data: bytes, random: Random) -> bytes:
    """Inputs with other fields in them, behind the right lengths."""
    try:
        items = list(read_recording(filled("mutated.stallwatch", data)))
    except RecordingError:
        items = []
    if not items:
        return data
    change(random.choice(items), random)
    return b"".join(_length_prefix(each.ByteSize()) + each.SerializeToString() for each in items)
