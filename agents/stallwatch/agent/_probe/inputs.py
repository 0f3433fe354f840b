"""A checksum of what went into the model: tells whether ranks, or epochs, see the same samples.

Only a few bytes are looked at, four short runs spread over one tensor: the largest among the arguments and inside them, be
they dicts, sequences or objects that bear tensors (masks and time steps are smaller than what they belong to). Runs
that are all one byte (borders of images, padding) say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import string_at
from itertools import islice
from typing import TYPE_CHECKING, Any
from zlib import crc32

from stallwatch.agent._fingerprint import flat, local_part

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.device import DeviceReader

    Tensor = torch.Tensor

RUN_BYTES = 64
MOST_MICRO_BATCHES = 1024
"""Of one step that are looked at: without a step that the agent sees, it must not gather for ever."""
_DEEPEST, _MOST = 4, 16
"""How far into what the model is given tensors are looked for."""
_PLAIN = (str, bytes, int, float, type(None))
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
        if len(self._seen) >= MOST_MICRO_BATCHES:
            return
        tensor: Tensor | None
        if len(arguments) == 1 and not keywords and type(arguments[0]) is self._tensor:
            tensor = arguments[0]
        else:
            tensor = self._largest((arguments, keywords), 0)
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
        elif tensor.is_cpu:
            self._seen.append(self._scattered(tensor))
        elif tensor.numel():
            self._seen.append(self._fetch(self._thin(tensor)))

    def _place(self, count: int, size: int) -> None:
        """Where the runs begin in a tensor of this size: at whole elements."""
        self._shape = (count, size)
        self._length = min(RUN_BYTES, count * size)
        room = count * size - self._length
        self._offsets = [int(place * room) // size * size for place in _PLACES]

    def statistics(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
        """Mean and standard deviation of the same tensor, on its way to the host; None when it holds no real numbers."""
        import torch

        tensor = self._largest((arguments, keywords), 0)
        if tensor is None or not tensor.numel() or not tensor.is_floating_point():
            return None
        values = tensor.detach().float()
        return self._fetch(torch.stack([values.mean(), values.std(correction=0)]))

    def take(self) -> list[bytes | Tensor]:
        """What was seen since the last call; for `checksum`."""
        seen, self._seen = self._seen, []
        return seen

    def _scattered(self, tensor: Tensor) -> bytes:
        """Runs of a tensor that is not contiguous: a slice of a longer sequence, images with their channels last."""
        if not tensor.numel():
            return b""
        shape, strides, size = tensor.shape, tensor.stride(), tensor.element_size()
        # Along the dimension whose elements lie side by side; where there is none, single elements.
        along = strides.index(1) if 1 in strides else -1
        length = min(RUN_BYTES // size, shape[along]) if along >= 0 else 1
        seen = b""
        for place in _PLACES:
            offset, rest = 0, int(place * tensor.numel())
            for dimension in range(len(shape) - 1, -1, -1):
                rest, index = divmod(rest, shape[dimension])
                if dimension == along:
                    index = min(index, shape[dimension] - length)
                offset += index * strides[dimension]
            seen += string_at(tensor.data_ptr() + offset * size, length * size)
        return seen

    def _largest(self, value: Any, depth: int) -> Tensor | None:
        """The largest tensor in a value, the first of those of one size."""
        if isinstance(value, self._tensor):
            return local_part(value)
        if depth > _DEEPEST or isinstance(value, _PLAIN):
            return None
        if isinstance(value, Mapping):
            inside: Any = islice(value.values(), _MOST)
        elif isinstance(value, list | tuple):
            inside = value[:_MOST]
        elif hasattr(value, "__dict__"):
            # A batch of a class of its own: a dataclass, a graph, what a tokenizer returns.
            inside = islice(vars(value).values(), _MOST)
        else:
            return None
        largest: Tensor | None = None
        for each in inside:
            found = self._largest(each, depth + 1)
            if found is not None and (largest is None or found.nbytes > largest.nbytes):
                largest = found
        return largest

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
