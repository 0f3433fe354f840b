"""Several pieces of bytes in one input, each after its length, so that pieces can be exchanged."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random


def join(parts: Iterable[bytes]) -> bytes:
    """One input of these parts."""
    return b"".join(len(part).to_bytes(3, "big") + part for part in parts)


def split(data: bytes, most: int = 64) -> list[bytes]:
    """The parts of an input; whatever bytes there are, some come out."""
    parts = []
    while len(data) >= 3 and len(parts) < most:
        length = int.from_bytes(data[:3], "big")
        parts.append(data[3 : 3 + length])
        data = data[3 + length :]
    return parts


def rearrange(parts: list[bytes], random: Random) -> None:
    """One part doubled, moved or left out."""
    if not parts:
        return
    place = random.randrange(len(parts))
    action = random.randrange(3)
    if action == 0:
        parts.insert(random.randrange(len(parts) + 1), parts[place])
    elif action == 1:
        parts.insert(random.randrange(len(parts)), parts.pop(place))
    elif len(parts) > 1:
        del parts[place]
