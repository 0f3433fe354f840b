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
        self._seen: list[bytes | Tensor] = []

    def see(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """A forward begins with these arguments."""
        tensor = self._first(arguments) if arguments else None
        if tensor is None and keywords:
            tensor = self._first(tuple(keywords.values()))
        if tensor is None or not tensor.numel() or tensor.layout is not _strided():
            return
        size = tensor.element_size()
        if tensor.is_cpu and tensor.is_contiguous():
            total = tensor.numel() * size
            pointer, length = tensor.data_ptr(), min(RUN_BYTES, total)
            room = total - length
            # Runs begin at whole elements.
            self._seen.append(
                b"".join(string_at(pointer + int(place * room) // size * size, length) for place in _PLACES)
            )
        elif not tensor.is_cpu:
            self._seen.append(self._fetch(self._thin(tensor)))

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


def _strided() -> torch.layout:
    import torch

    return torch.strided
