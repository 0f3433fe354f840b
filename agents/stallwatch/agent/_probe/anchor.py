"""A few elements of one gradient, read wherever a gradient passes: before it is averaged, after it, and at the optimizer.

Four numbers that must be the same up to a factor say whether the optimizer was given the gradient of this step, and whether
what came out of the reduction is the mean of what went in. The elements are the same on every rank, and move to another
parameter every `ROTATION` steps, so that a unit that happens to be dead does not blind the probe for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import string_at
from typing import TYPE_CHECKING, Any

from stallwatch.agent._fingerprint import flat, local_part
from stallwatch.agent._probe.hooks import Guard, Hook

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.device import DeviceReader

    Tensor = torch.Tensor

ELEMENTS = 4
ROTATION = 1024
_STRIDE = 7
"""Parameters that the anchor passes over when it moves: neighbours tend to be of one layer."""

MOST_MICRO_BATCHES = 1024
"""Of one step that are read: without a step that the agent sees, it must not gather for ever."""

Reading = bytes | Any
"""Raw bytes of the elements, or a pinned host tensor that will hold them."""


class AnchorReadings:
    """What was read in one step; numbers are made of it on the background thread."""

    __slots__ = ("applied", "carried", "dtype", "epoch", "local", "produced")

    def __init__(self, epoch: int, dtype: torch.dtype) -> None:
        self.epoch = epoch
        self.dtype = dtype
        self.local: list[Reading] = []
        """One a micro-batch."""
        self.carried: list[Reading] | None = []
        """What was in the gradient before each micro-batch; None once it is known to have been cleared in this step."""
        self.produced: Reading | None = None
        self.applied: Reading | None = None


class GradientAnchor:
    """Reads the anchor; `begin` once a step, then at each place."""

    def __init__(self, parameters: Sequence[Tensor], reader: DeviceReader, guard: Guard) -> None:
        import torch

        self._tensor = torch.Tensor
        self._fetch = reader.fetch
        self._guard = guard
        dense = [each for each in parameters if each.numel() >= ELEMENTS and not each.is_complex()]
        # Biases and norms get a gradient from every sample; rows of an embedding only from some.
        self._candidates = [each for each in dense if each.dim() == 1] or dense
        self._parameter: Tensor | None = None
        self._held = False
        """Whether the optimizer that is followed updates it: what no optimizer updates, none needs to clear."""
        self._optimizer: torch.optim.Optimizer | None = None
        self._offset = 0
        self._epoch = -1
        self._handle: Any = None
        self.readings: AnchorReadings | None = None

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Follows this optimizer."""
        self._optimizer = optimizer
        self._held = _holds(optimizer, self._parameter)

    def begin(self, step: int) -> None:
        """A step begins: what is read from now on belongs to it."""
        if not self._candidates:
            return
        epoch = step // ROTATION
        if epoch != self._epoch:
            self._move(epoch)
        assert self._parameter is not None
        self.readings = AnchorReadings(epoch, self._parameter.dtype)

    def _move(self, epoch: int) -> None:
        self.remove()
        self._epoch = epoch
        parameter = self._candidates[epoch * _STRIDE % len(self._candidates)]
        self._parameter = parameter
        self._held = _holds(self._optimizer, parameter)
        # Of a sharded parameter only this rank's part is here, which may be smaller.
        size = local_part(parameter).numel()
        self._offset = max(size - ELEMENTS, 0) // 2
        if parameter.requires_grad and size >= ELEMENTS:
            self._handle = parameter.register_hook(Hook(self._guard, self._on_local))

    def _on_local(self, _now: float, gradient: Tensor) -> None:
        readings = self.readings
        if readings is None or len(readings.local) > MOST_MICRO_BATCHES:
            return
        if len(readings.local) == MOST_MICRO_BATCHES:
            # Their sum is not the whole gradient: unknown.
            readings.local.append(None)
        else:
            if readings.carried is not None:
                self._see_carried(readings, readings.carried)
            reading = self._read(gradient)
            if reading is not None:
                readings.local.append(reading)

    def _see_carried(self, readings: AnchorReadings, carried: list[Reading]) -> None:
        before = self._parameter.grad if self._held and self._parameter is not None else None
        reading = self._read(before)
        if reading is None or (isinstance(reading, bytes) and not any(reading)):
            readings.carried = None
        else:
            carried.append(reading)

    def produced(self) -> None:
        """A backward has ended."""
        readings, parameter = self.readings, self._parameter
        if readings is not None and parameter is not None:
            readings.produced = self._read(parameter.grad)

    def applied(self) -> None:
        """The optimizer is about to step."""
        readings, parameter = self.readings, self._parameter
        if readings is not None and parameter is not None:
            readings.applied = self._read(parameter.grad)

    def take(self) -> AnchorReadings | None:
        """All readings of the step, which is over."""
        readings, self.readings = self.readings, None
        return readings

    def remove(self) -> None:
        """Takes the hook off."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _read(self, gradient: Tensor | None) -> Reading | None:
        if gradient is None:
            return None
        if type(gradient) is self._tensor and gradient.is_cpu and gradient.is_contiguous():
            size = gradient.element_size()
            return string_at(gradient.data_ptr() + self._offset * size, ELEMENTS * size)
        part = local_part(gradient)
        if part.numel() < self._offset + ELEMENTS:
            return None
        # A copy: the gradient goes on changing where it lies.
        return self._fetch(flat(part)[self._offset : self._offset + ELEMENTS].clone())


def _holds(optimizer: torch.optim.Optimizer | None, parameter: Tensor | None) -> bool:
    return optimizer is not None and any(
        each is parameter for group in optimizer.param_groups for each in group["params"]
    )
