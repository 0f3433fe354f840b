"""Changes protobuf messages field by field: most of what comes out still parses, and much of it is still valid."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

_FLOATS = (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1.0, 1e-9, 5e-324, 1e308, -1e308, 1e30, 3.5)
_TEXTS = (
    "",
    "a",
    "loss",
    "\0",
    "é漢\U0001f600",
    "x" * 200,
    "x" * 20_000,
    "../..",
    "run/1",
    "%2F",
    '"}\n',
    "NaN",
)
_RANGES = {
    Field.TYPE_INT32: (-(2**31), 2**31 - 1),
    Field.TYPE_SINT32: (-(2**31), 2**31 - 1),
    Field.TYPE_UINT32: (0, 2**32 - 1),
    Field.TYPE_FIXED32: (0, 2**32 - 1),
    Field.TYPE_INT64: (-(2**63), 2**63 - 1),
    Field.TYPE_SINT64: (-(2**63), 2**63 - 1),
    Field.TYPE_UINT64: (0, 2**64 - 1),
    Field.TYPE_FIXED64: (0, 2**64 - 1),
    Field.TYPE_ENUM: (0, 12),
}


def change(message: Message, random: Random) -> None:
    """One change somewhere in the message."""
    if not message.DESCRIPTOR.fields:
        return
    present = [field for field, _value in message.ListFields()]
    # What is there is changed more often than what is not is added.
    field = random.choice(present if present and random.random() < 0.8 else message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _change_map(value, field, random)
    elif field.is_repeated:
        _change_list(value, field, random)
    elif field.message_type is None:
        setattr(message, field.name, scalar(field, random, value))
    elif message.HasField(field.name) and random.random() < 0.95:
        change(value, random)
    elif message.HasField(field.name):
        message.ClearField(field.name)
    else:
        value.SetInParent()


def scalar(field: Any, random: Random, old: Any = 0) -> Any:
    """A value that the field can hold, an edge of its range more often than not."""
    if field.type in (Field.TYPE_DOUBLE, Field.TYPE_FLOAT):
        number = random.choice((*_FLOATS, random.uniform(-10, 10), float(old) * 2))
        # protobuf refuses a double that is too large for a float.
        return (
            number
            if field.type == Field.TYPE_DOUBLE or abs(number) < 1e38 or not math.isfinite(number)
            else 3e38
        )
    if field.type == Field.TYPE_BOOL:
        return random.random() < 0.5
    if field.type == Field.TYPE_STRING:
        return random.choice((*_TEXTS, str(old)[: random.randrange(8)]))
    if field.type == Field.TYPE_BYTES:
        return random.choice(_TEXTS).encode()
    least, most = _RANGES[field.type]
    near = int(old) + random.choice((-2, -1, 1, 2, 10))
    small = random.randrange(100)
    return random.choice((min(most, max(least, near)), min(small, most), least, most, max(0, least)))


def _change_list(values: Any, field: Any, random: Random) -> None:
    if field.message_type is not None:
        _change_messages(values, random)
        return
    kept = list(values)
    actions: list[Callable[[], Any]] = [
        lambda: kept.append(scalar(field, random, kept[-1] if kept else 0)),
        kept.clear,
    ]
    if kept:
        place = random.randrange(len(kept))
        replaced = partial(kept.__setitem__, place, scalar(field, random, kept[place]))
        actions += [replaced] * 6
        actions += [partial(kept.pop, place), partial(random.shuffle, kept), partial(kept.extend, kept[:64])]
        same = [scalar(field, random, kept[0])] * len(kept)
        actions.append(partial(kept.__setitem__, slice(None), same))
    random.choice(actions)()
    del values[:]
    values.extend(kept)


def _change_messages(values: Any, random: Random) -> None:
    if values and random.random() < 0.8:
        change(random.choice(values), random)
    elif values and random.random() < 0.5:
        del values[random.randrange(len(values))]
    elif values and len(values) < 64:
        values.add().CopyFrom(random.choice(values))
    else:
        change(values.add(), random)


def _change_map(values: Any, field: Any, random: Random) -> None:
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    if values and random.random() < 0.3:
        del values[random.choice(list(values))]
    else:
        values[scalar(key, random)] = scalar(value, random)
