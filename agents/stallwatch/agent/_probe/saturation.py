"""How many outputs of tanh and sigmoid are at their limits, on sampled steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.device import DeviceReader
    from stallwatch.agent._probe.model import WatchedModel

    Tensor = torch.Tensor

_MODULES = 16
_MARGIN = 0.01
"""Share of the range next to a limit that counts as saturated: the slope there is below a twentieth of its best."""


class SaturationProbe:
    """Puts forward hooks on saturating activations for one step."""

    def __init__(
        self, model: WatchedModel, reader: DeviceReader, failed: Callable[[BaseException], None]
    ) -> None:
        import torch

        ranges: dict[type, tuple[float, float]] = {
            torch.nn.Tanh: (-1.0, 1.0),
            torch.nn.Sigmoid: (0.0, 1.0),
            torch.nn.Hardtanh: (-1.0, 1.0),
            torch.nn.Hardsigmoid: (0.0, 1.0),
        }
        # torch.compile traces modules without their hooks, or again when hooks come: it is left alone.
        found = [] if model.compiled else model.inner.named_modules()
        chosen = [(name, each, ranges[type(each)]) for name, each in found if type(each) in ranges]
        step = max(-(-len(chosen) // _MODULES), 1)
        self._modules = chosen[::step]
        self._fetch = reader.fetch
        self._failed = failed
        self._handles: list[Any] = []
        self._shares: dict[str, Tensor] = {}

    def arm(self) -> None:
        """A sampled step begins."""
        self.take()
        for name, module, (low, high) in self._modules:
            self._handles.append(module.register_forward_hook(self._hook(name, low, high)))

    def _hook(self, name: str, low: float, high: float) -> Callable[..., None]:
        margin = _MARGIN * (high - low) / 2

        def hook(_module: torch.nn.Module, _arguments: object, output: Tensor) -> None:
            try:
                values = output.detach()
                share = ((values < low + margin) | (values > high - margin)).float().mean()
                self._shares[name] = self._fetch(share)
            except Exception as error:
                self._failed(error)

        return hook

    def take(self) -> dict[str, Tensor]:
        """Takes the hooks off; what they saw."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        shares, self._shares = self._shares, {}
        return shares
