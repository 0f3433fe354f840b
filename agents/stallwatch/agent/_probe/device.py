"""Gets values off the training device without ever waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor


_MOST_MARKS = 16_384


class DeviceReader:
    """Copies small tensors to the host: at once on a CPU, behind the queued work on a GPU."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._tensor = torch.Tensor
        self.asynchronous = device.type == "cuda"
        self.clock = DeviceClock() if self.asynchronous else None

    def fetch(self, tensor: Tensor) -> Tensor:
        """The tensor on the host; on CUDA its values are there once an event recorded later has passed."""
        import torch

        if tensor.device.type != "cuda":
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    def fetch_integer(self, tensor: Tensor) -> int | Tensor:
        """An integer scalar, as a number when that costs no wait."""
        return int(tensor.item()) if tensor.device.type == "cpu" else self.fetch(tensor)

    def number(self, value: float | Tensor) -> float | Tensor:
        """A number, or a host tensor that will hold it.

        Raises:
            OverflowError: An integer too large for a float.
            TypeError, ValueError, RuntimeError: No real number, or a tensor of several.
        """
        kind = type(value)
        if kind is float:
            return value
        if kind is self._tensor and value.is_cpu:  # type: ignore[union-attr]
            return float(value.item())  # type: ignore[union-attr]
        if not hasattr(value, "detach"):
            # Integers may be too large for a float, which the caller hears of.
            return float(value)
        tensor: Tensor = getattr(value, "_local_tensor", value).detach()
        return float(tensor.item()) if tensor.device.type == "cpu" else self.fetch(tensor)

    def fence(self) -> Any:
        """An event that passes when everything fetched until now has arrived; None when it has."""
        if not self.asynchronous:
            return None
        import torch

        event = torch.cuda.Event()
        event.record()
        return event


class DeviceClock:
    """Phase times on the GPU, by events in its stream: the host runs ahead of it, so host timers say little there."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, Any]] = []
        self._last: Any = None

    def mark(self, charge: int) -> None:
        """Ends a phase in the stream; the time since the mark before is charged to `charge`."""
        import torch

        if len(self._marks) >= _MOST_MARKS:
            # No step that the agent sees: the events must not gather for ever.
            self._marks, self._last = [], None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((charge, event))

    def close(self) -> tuple[Any, list[tuple[int, Any]]]:
        """The marks of the step that ends, and the event they are measured from."""
        marks, self._marks = self._marks, []
        first, self._last = self._last, marks[-1][1] if marks else self._last
        return first, marks


def device_seconds(clock: tuple[Any, list[tuple[int, Any]]]) -> list[float] | None:
    """Seconds by what they were charged to, once all events have passed; None for the first step, which has no start."""
    before, marks = clock
    if before is None:
        return None
    seconds = [0.0] * 8
    for charge, event in marks:
        seconds[charge] += before.elapsed_time(event) / 1000
        before = event
    return seconds
