"""A checksum of what went into the model: tells whether ranks, or epochs, see the same samples.

Only a few bytes are looked at, four short runs spread over the first tensor among the arguments. Runs that are all one byte
(borders of images, padding) say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import string_at
from typing import TYPE_CHECKING, Any
from zlib import crc32

from stallwatch.agent._fingerprint import flat, local_part

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.device import DeviceReader

    Tensor = torch.Tensor

RUN_BYTES = 64
_PLACES = (0.11, 0.37, 0.61, 0.83)
"""Where the runs begin, as shares of the tensor: no simple fractions, at which batches have their seams."""


class InputProbe:
    """Adds up the inputs of one step's micro-batches."""

    def __init__(self, reader: DeviceReader) -> None:
        import torch

        self._tensor = torch.Tensor
        self._fetch = reader.fetch
        self._strided = torch.strided
        self._seen: list[bytes | Tensor] = []
        self._shape = (0, 0)
        self._length = 0
        self._offsets = [0] * len(_PLACES)

    def see(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """A forward begins with these arguments."""
        tensor = arguments[0] if arguments and type(arguments[0]) is self._tensor else None
        if tensor is None:
            tensor = self._first(arguments) if arguments else None
        if tensor is None and keywords:
            tensor = self._first(tuple(keywords.values()))
        if tensor is None or tensor.layout is not self._strided:
            return
        if tensor.is_cpu and tensor.is_contiguous():
            size, count = tensor.element_size(), tensor.numel()
            if not count:
                return
            if (count, size) != self._shape:
                self._place(count, size)
            pointer, length = tensor.data_ptr(), self._length
            first, second, third, fourth = self._offsets
            self._seen.append(
                string_at(pointer + first, length)
                + string_at(pointer + second, length)
                + string_at(pointer + third, length)
                + string_at(pointer + fourth, length)
            )
        elif not tensor.is_cpu and tensor.numel():
            self._seen.append(self._fetch(self._thin(tensor)))

    def _place(self, count: int, size: int) -> None:
        """Where the runs begin in a tensor of this size: at whole elements."""
        self._shape = (count, size)
        self._length = min(RUN_BYTES, count * size)
        room = count * size - self._length
        self._offsets = [int(place * room) // size * size for place in _PLACES]

    def statistics(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
        """Mean and standard deviation of the first tensor, on its way to the host; None when it holds no real numbers."""
        import torch

        tensor = self._first((*arguments, *keywords.values()))
        if tensor is None or not tensor.numel() or not tensor.is_floating_point():
            return None
        values = tensor.detach().float()
        return self._fetch(torch.stack([values.mean(), values.std(correction=0)]))

    def take(self) -> list[bytes | Tensor]:
        """What was seen since the last call; for `checksum`."""
        seen, self._seen = self._seen, []
        return seen

    def _first(self, values: tuple[Any, ...]) -> Tensor | None:
        for value in values:
            if isinstance(value, self._tensor):
                return local_part(value)
            if isinstance(value, list | tuple) and value and isinstance(value[0], self._tensor):
                return local_part(value[0])
            if isinstance(value, Mapping):
                found = self._first(tuple(value.values()))
                if found is not None:
                    return found
        return None

    @staticmethod
    def _thin(tensor: Tensor) -> Tensor:
        line = flat(tensor)
        # Every so many elements: one small copy instead of four.
        return line[:: max(line.numel() // RUN_BYTES, 1)][:RUN_BYTES].clone()


def checksum(seen: list[bytes | Tensor]) -> int:
    """One number for all micro-batches of a step; -1 when nothing was seen that tells inputs apart."""
    value, known = 0, False
    for each in seen:
        data = each if isinstance(each, bytes) else _raw(each)
        if len(set(data)) > 1:
            known = True
        value = crc32(data, value)
    return value if known else -1


def _raw(tensor: Tensor) -> bytes:
    import torch

    return bytes(tensor.contiguous().view(torch.uint8).tolist())
