"""Bit-exact fingerprints of tensors: equal tensors give equal numbers on every rank, a single flipped bit does not.

The bits are summed as 64-bit integers, which wraps the same way everywhere. A plain sum would not see two elements change
places, so sums over rows and sums over columns are weighted by their place. `torch.hash_tensor` would do neither better nor
faster: it is an exclusive or, blind to permutations, and takes three times as long on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import string_at
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor

_SMALL = 4096
"""Up to so many 64-bit words, each word has a weight of its own."""
_COLUMNS = 1000
"""Words in a row of a larger tensor; no power of two, which would line up with the width of layers."""
_FACTOR = -7046029254386353131
"""The golden ratio in 64 bits: spreads consecutive places over all bits."""

_weights: dict[torch.device, Tensor] = {}


def local_part(tensor: Tensor) -> Tensor:
    """The part of a (perhaps sharded) tensor that this rank holds; no communication."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part.detach()


def flat(tensor: Tensor) -> Tensor:
    """The elements as one dimension, without a copy when the tensor is dense in memory."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    permuted = tensor.permute(order)
    return permuted.view(-1) if permuted.is_contiguous() else tensor.reshape(-1)


def words(tensor: Tensor) -> Tensor:
    """The bits of a one-dimensional tensor as 64-bit integers."""
    import torch

    if tensor.dtype is torch.int64:
        return tensor
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor).view(-1)
    size = tensor.element_size()
    if tensor.storage_offset() * size % 8:
        # Begins in the middle of a word, as views into a flat buffer may.
        tensor = tensor.clone()
    whole = tensor.numel() * size // 8 * 8 // size
    if whole == tensor.numel():
        return tensor.view(torch.int64)
    narrow = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[size]
    tail = tensor[whole:].view(narrow).to(torch.int64)
    if not whole:
        return tail
    head = tensor[:whole].view(torch.int64)
    # Only a small tensor is worth a copy; of a large one, two words stand for both parts.
    return torch.cat([head, tail]) if whole < _SMALL else torch.stack([place_sum(head), place_sum(tail)])


def fingerprint(tensor: Tensor) -> Tensor:
    """A 64-bit integer scalar, on the tensor's device, that stands for the tensor's bits and their places."""
    return place_sum(words(flat(local_part(tensor))))


def local_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`local_part` of many tensors. Plain ones are returned as they are: read them under `torch.no_grad`."""
    import torch

    plain = (torch.Tensor, torch.nn.Parameter)
    return [each if type(each) in plain else local_part(each) for each in tensors]


def word_sums(parts: Sequence[Tensor]) -> Tensor:
    """Sums of the bits of tensors as 64-bit integers, shape (tensors,), on the device of the first.

    One pass and two operations a tensor. A flipped bit changes the sum; elements that change places do not, which is enough
    for gradients: what is not averaged differs in every element. `parts` are `local_parts`.
    """
    import torch

    kind = torch.int64
    return gather([(part.view(kind) if _is_whole_words(part) else words(flat(part))).sum() for part in parts])


def fingerprints(parts: Sequence[Tensor]) -> Tensor:
    """A 64-bit integer for each tensor that stands for its bits and their places, shape (tensors,), on the first's device.

    Like `fingerprint`, with fewer operations: a tensor is a table without a rest wherever its size has a divisor that suits,
    and what has to be added is added for all tensors at once. The numbers are not those of `fingerprint`. `parts` are
    `local_parts`.
    """
    import torch

    kind = torch.int64
    firsts, seconds = [], []
    for part in parts:
        values = part.view(kind).view(-1) if _is_whole_words(part) else words(flat(part))
        count = values.numel()
        columns = _row_length(count) if count > _SMALL else 0
        if columns:
            table = values.view(-1, columns)
            firsts.append(place_sum(table.sum(1)))
            seconds.append(_weighted(table.sum(0)))
        else:
            firsts.append(place_sum(values))
            seconds.append(_nothing(values.device))
    return gather(firsts) + 31 * gather(seconds)


@functools.lru_cache(maxsize=4096)
def _row_length(count: int) -> int:
    """The largest number from 128 to 2048 that divides a count; 0 when none does."""
    return next((columns for columns in range(2048, 127, -1) if count % columns == 0), 0)


@functools.lru_cache(maxsize=64)
def _nothing(device: torch.device) -> Tensor:
    import torch

    return torch.zeros((), dtype=torch.int64, device=device)


def _is_whole_words(part: Tensor) -> bool:
    """Whether the rows of a tensor can be viewed as 64-bit integers where they are."""
    shape = part.shape
    if not shape or part.is_complex() or not part.is_contiguous():
        return False
    a_word = 8 // part.element_size()
    return a_word > 0 and shape[-1] % a_word == 0 and part.storage_offset() % a_word == 0


def gather(scalars: Sequence[Tensor]) -> Tensor:
    """Scalars as one vector, on the device of the first."""
    import torch

    try:
        return torch.stack(list(scalars))
    except RuntimeError:
        device, dtype = scalars[0].device, scalars[0].dtype
        return torch.stack([each.to(device=device, dtype=dtype, non_blocking=True) for each in scalars])


def place_sum(values: Tensor) -> Tensor:
    """Sum of integers weighted by their place, in one or two passes."""
    count = values.numel()
    if count <= _SMALL:
        return _weighted(values)
    rows = count // _COLUMNS
    table = values[: rows * _COLUMNS].view(rows, _COLUMNS)
    total = place_sum(table.sum(1)) + 31 * _weighted(table.sum(0))
    rest = values[rows * _COLUMNS :]
    return total + 7 * _weighted(rest) if rest.numel() else total


def _weighted(values: Tensor) -> Tensor:
    import torch

    weights = _weights.get(values.device)
    if weights is None:
        places = torch.arange(1, _SMALL + 1, dtype=torch.int64, device=values.device) * _FACTOR
        weights = _weights[values.device] = (places ^ (places >> 29)) | 1
    if values.device.type == "cpu":
        return torch.dot(values, weights[: values.numel()])
    return (values * weights[: values.numel()]).sum()


class GradientSentinel:
    """A fingerprint of a few small slices of the gradient, cheap enough for every step.

    Which parameters, and where in them, moves with the step number, the same on every rank: a part of the model whose
    gradients are no longer averaged is met after a few steps, and a rank that averages nothing at once. On the first steps
    all parameters are met: what is wired wrongly is so from the start.
    """

    slices = 3
    elements = 512
    wide_steps = 4
    wide_slices = 256

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        import torch

        candidates = [each for each in parameters if each.numel() >= 8 and not each.is_complex()]
        largest = max(candidates, key=lambda each: each.numel(), default=None)
        self._candidates = [
            each
            for each in candidates
            if largest is not None and each.dtype == largest.dtype and each.device == largest.device
        ]
        self._in_memory = largest is not None and largest.device.type == "cpu"
        self._tensor = torch.Tensor
        self._last = -1
        self._wide_left = self.wide_steps

    def take(self, step: int) -> int | Tensor | None:
        """The fingerprint of this step's gradients: a number, or a scalar on their device; None without gradients."""
        candidates, plain = self._candidates, self._tensor
        count = len(candidates)
        fast = self._in_memory
        gradients = []
        if step != self._last:
            # Not counted from a number: a resumed run learns its step only at the first optimizer step.
            self._last = step
            self._wide_left -= 1
        slices = min(self.wide_slices if self._wide_left >= 0 else self.slices, count)
        for index in range(slices):
            gradient = candidates[(step + index * count // slices) % count].grad
            if gradient is None:
                continue
            if type(gradient) is not plain:
                gradient = getattr(gradient, "_local_tensor", gradient)
            fast = fast and gradient.is_contiguous() and type(gradient) is plain
            gradients.append(gradient)
        if not gradients:
            return None
        return self._checksum(gradients, step) if fast else self._sum(gradients, step)

    def _checksum(self, gradients: Sequence[Tensor], step: int) -> int:
        """Of memory, with no tensor operation: half the time, most of which is caches that the backward has emptied."""
        value = 0
        for gradient in gradients:
            size = gradient.element_size()
            start, length = self._slice(gradient.numel(), step)
            value = crc32(string_at(gradient.data_ptr() + start * size, length * size), value)
        return value

    def _sum(self, gradients: Sequence[Tensor], step: int) -> Tensor | None:
        import torch

        parts = []
        for gradient in gradients:
            start, length = self._slice(gradient.numel(), step)
            if gradient.layout is torch.strided and length >= 8:
                parts.append(flat(gradient)[start:][: length & ~7])
        return torch.cat(parts).view(torch.int64).sum() if parts else None

    def _slice(self, size: int, step: int) -> tuple[int, int]:
        length = min(size, self.elements)
        return step * self.elements % (size - length + 1), length


class ParameterSentinel(GradientSentinel):
    """The same of the parameters: taken before and after a step, it says whether the step itself made replicas differ."""

    elements = 128

    def take(self, step: int) -> int | Tensor | None:
        """The fingerprint of this step's parameters: a number, or a scalar on their device; None without any."""
        count = len(self._candidates)
        if not count:
            return None
        chosen = [
            self._candidates[(step + index * count // self.slices) % count]
            for index in range(min(self.slices, count))
        ]
        if self._in_memory and all(each.is_contiguous() for each in chosen):
            return self._checksum(chosen, step)
        return self._sum([local_part(each) for each in chosen], step)
