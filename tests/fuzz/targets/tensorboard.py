"""TensorBoard's event files: raw ones, and events of any content behind the right checksums."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from fuzz.framing import join, rearrange, split
from fuzz.logs import read
from fuzz.messages import change

MAX_BYTES = 4_096
_RAW, _FRAMED = 0, 1


def _scalar(step: int, tag: str, value: float) -> event_pb2.Event:
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
    return event_pb2.Event(wall_time=1.7e9 + step, step=step, summary=summary)


def _tensor(step: int, tag: str, value: float) -> event_pb2.Event:
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin, data_class=summary_pb2.DATA_CLASS_SCALAR)
    tensor = tensor_pb2.TensorProto(dtype=1, float_val=[value])
    entry = summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
    return event_pb2.Event(wall_time=1.7e9 + step, step=step, summary=summary_pb2.Summary(value=[entry]))


def _events() -> list[event_pb2.Event]:
    return [
        event_pb2.Event(wall_time=1.7e9, file_version="brain.Event:2"),
        _scalar(1, "loss", 2.0),
        _scalar(2, "loss", 1.5),
        _tensor(1, "epoch_loss", 2.0),
        _tensor(2, "epoch_loss", 1.0),
        event_pb2.Event(wall_time=1.7e9 + 3, step=3, session_log=event_pb2.SessionLog(status=1)),
    ]


def _framed(parts: list[bytes]) -> bytes:
    whole = b""
    for part in parts:
        length = struct.pack("<Q", len(part))
        whole += (
            length + struct.pack("<I", masked_crc32c(length)) + part + struct.pack("<I", masked_crc32c(part))
        )
    return whole


def seeds() -> Iterator[bytes]:
    """Scalars as PyTorch and as TensorFlow 2 write them."""
    parts = [each.SerializeToString() for each in _events()]
    yield bytes([_FRAMED]) + join(parts)
    yield bytes([_FRAMED]) + join(parts[:3])
    yield bytes([_RAW]) + _framed(parts[:3])


def one(data: bytes) -> None:
    """The first byte says whether checksums are put in."""
    content = _framed(split(data[1:])) if data[:1] == bytes([_FRAMED]) else data[1:]
    read("events.out.tfevents.1700000000.host", content)


def mutate(data: bytes, random: Random) -> bytes:
    """Fields of an event, or the order of events."""
    parts = split(data[1:]) or [each.SerializeToString() for each in _events()]
    if random.random() < 0.2:
        rearrange(parts, random)
    place = random.randrange(len(parts))
    try:
        event = event_pb2.Event.FromString(parts[place])
    except DecodeError:
        event = random.choice(_events())
    for _ in range(random.randint(1, 3)):
        change(event, random)
    parts[place] = event.SerializeToString()
    return bytes([_FRAMED]) + join(parts)
