"""Whether steps go too far or not far enough: the gradient after a step, compared with the step and the gradient before it.

The cosine of the new gradient and the negative update is above zero while a longer
step would still have gone down, near zero at the best length or where all is noise, and below zero past the valley.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stallwatch.agent._fingerprint import flat, local_part
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.device import DeviceReader
    from stallwatch.agent._probe.model import WatchedModel

    Tensor = torch.Tensor

_ELEMENTS = 1 << 18
"""Elements compared at most: the first ones of each parameter, in proportion to its size. Of so many, the cosine of two vectors
that have nothing in common is 0.002 by chance."""
_PARAMETERS = 32
"""Parameters compared at most: each takes some ten operations."""


class DirectionReadings:
    """Sums of products, on their way to the host."""

    __slots__ = ("sums",)

    def __init__(self, sums: Tensor) -> None:
        self.sums = sums

    def message(self, step: int) -> wire.DirectionRecord:
        """The record to send."""
        with_update, with_gradient, update, before, now = self.sums.tolist()
        return wire.DirectionRecord(
            step=step,
            update_alignment=_cosine(with_update, update, now),
            gradient_agreement=_cosine(with_gradient, before, now),
        )


def _cosine(product: float, one: float, other: float) -> float:
    size = math.sqrt(one * other)
    return product / size if size > 0 and math.isfinite(size) else math.nan


class DirectionProbe:
    """Keeps part of the update and the gradient of a sampled step until the gradient of the step after it is there."""

    def __init__(self, model: WatchedModel, reader: DeviceReader) -> None:
        self._model = model
        self._fetch = reader.fetch
        self._parameters: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._updates: list[Tensor] = []
        self._stride = 1
        self._readings: DirectionReadings | None = None
        self.step = -1
        """The step to compare with, once its update is known; -1 when none waits."""

    def before_step(self, part: frozenset[int]) -> None:
        """The optimizer is about to take a sampled step, whose turn these parameters have, by index."""
        self.step = -1
        parameters: list[Tensor] = [self._model.parameters[index][1] for index in sorted(part)]
        self._parameters = [each for each in parameters if each.grad is not None][:_PARAMETERS]
        elements = sum(local_part(each).numel() for each in self._parameters)
        self._stride = max(-(-elements // _ELEMENTS), 1)
        self._gradients = [
            self._part(each.grad).clone() for each in self._parameters if each.grad is not None
        ]
        self._updates = [self._part(each).clone() for each in self._parameters]

    def after_step(self, step: int) -> None:
        """It has."""
        import torch

        if not self._updates:
            return
        # The negative update, for the gradient points uphill.
        torch._foreach_sub_(self._updates, [self._part(each) for each in self._parameters])
        self.step = step

    def compare(self) -> None:
        """The optimizer is about to take the step after it."""
        import torch

        self.step = -1
        parameters, updates, before = self._parameters, self._updates, self._gradients
        self._parameters, self._updates, self._gradients = [], [], []
        if any(each.grad is None for each in parameters):
            return
        now = [self._part(each.grad) for each in parameters if each.grad is not None]
        if [each.numel() for each in now] != [each.numel() for each in before]:
            return
        pairs = ((now, updates), (now, before), (updates, updates), (before, before), (now, now))
        self._readings = DirectionReadings(self._fetch(torch.stack([_products(*pair) for pair in pairs])))

    def take(self) -> DirectionReadings | None:
        """What was compared in this step, if it was."""
        readings, self._readings = self._readings, None
        return readings

    def forget(self) -> None:
        """Gives back the memory."""
        self.step = -1
        self._parameters, self._updates, self._gradients = [], [], []

    def _part(self, tensor: Tensor) -> Tensor:
        line = flat(local_part(tensor))
        return line[: -(-line.numel() // self._stride)]


def _products(left: list[Tensor], right: list[Tensor]) -> Tensor:
    import torch

    device = left[0].device
    return torch.stack(
        [
            torch.dot(one.float(), other.float()).to(device, non_blocking=True)
            for one, other in zip(left, right, strict=True)
        ]
    ).sum()
