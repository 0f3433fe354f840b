"""How much a message unfolds to, read from its bytes before it is parsed.

An empty record takes two bytes of a message and hundreds in memory: parsed first, 4 MiB of them are more than a gigabyte.
"""

from __future__ import annotations

from collections import Counter

from stallwatch.detector.errors import InvalidInputError
from stallwatch.detector.ingest import limits
from stallwatch.v1 import telemetry_pb2 as pb

LIGHT_BYTES = 64 * 1024
"""A message of at most this size cannot unfold to more than some megabytes."""
_BATCH = pb.StreamRequest.BATCH_FIELD_NUMBER
_SEQUENCE = pb.Batch.SEQUENCE_FIELD_NUMBER
_MOST = {
    pb.Batch.SAMPLES_FIELD_NUMBER: ("samples", limits.MAX_SAMPLED_RECORDS),
    pb.Batch.EVALUATIONS_FIELD_NUMBER: ("evaluations", limits.MAX_EVALUATIONS),
    pb.Batch.EVENTS_FIELD_NUMBER: ("events", limits.MAX_EVENTS),
    pb.Batch.DROPPED_FIELD_NUMBER: ("dropped", limits.MAX_DROPPED),
    pb.Batch.NAMED_LOSSES_FIELD_NUMBER: ("named_losses", limits.MAX_NAMED_LOSSES),
    pb.Batch.DIRECTIONS_FIELD_NUMBER: ("directions", limits.MAX_SAMPLED_RECORDS),
}
_MOST_OTHERS = 4096
"""Fields of a message that are none of these: a message of ours has a few dozen."""


class TooHeavyError(InvalidInputError):
    """A batch has more records than it may; it was not parsed."""

    def __init__(self, field: str, message: str, sequence: int) -> None:
        super().__init__(field, message)
        self.sequence = sequence
        """Of the batch; 0 when it is not known."""


def check_weight(message: bytes) -> None:
    """Raise `TooHeavyError` when the batch of a message has more records than a batch may.

    Broken encoding raises nothing here: parsing it does.
    """
    if len(message) > LIGHT_BYTES:
        try:
            _walk(message, 0, len(message), Counter(), [0], inside=False)
        except (IndexError, _NoEncodingError):
            return


class _NoEncodingError(Exception):
    """What was read is no Protocol Buffers message."""


def _walk(data: bytes, at: int, end: int, counts: Counter[int], sequence: list[int], *, inside: bool) -> None:
    """Count the fields of a message from `at` to `end`, and look into its batches."""
    while at < end:
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        size = 0
        if kind == 0:
            value, at = _varint(data, at)
            if inside and field == _SEQUENCE:
                sequence[0] = value
        elif kind == 2:
            size, at = _varint(data, at)
            if not inside and field == _BATCH:
                _walk(data, at, min(at + size, end), counts, sequence, inside=True)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        elif kind not in {3, 4}:
            raise _NoEncodingError
        at += size
        name, most = _MOST.get(field, ("", _MOST_OTHERS)) if inside else ("", _MOST_OTHERS)
        key = field if name else 0
        counts[key] += 1
        if counts[key] > most:
            where = name or "batch"
            raise TooHeavyError(
                where,
                f"{where} has more than {most} {'records' if name else 'fields'}: send less at once",
                sequence[0],
            )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _NoEncodingError
