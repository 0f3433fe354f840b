"""What kind of model was attached, and the counters that say whether it still talks to the other ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stallwatch.agent._errors import ConfigurationError
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("stallwatch.agent")

MAX_BLOCKS = 512


@dataclass(slots=True)
class WatchedModel:
    """A model seen through its wrappers."""

    given: torch.nn.Module
    """What the user calls: hooks on it see the whole forward."""
    wrapper: torch.nn.parallel.DistributedDataParallel | None
    inner: torch.nn.Module
    """The user's own module."""
    compiled: bool
    """torch.compile stands between `given` and `inner`, whose hooks are then not called."""
    parallelism: wire.Parallelism.ValueType
    parameters: tuple[tuple[str, torch.nn.Parameter], ...]
    """Those that are followed; others take their place where the script replaces them."""
    device: torch.device
    group: Any
    """The process group that keeps the replicas together; None without one."""

    @property
    def module(self) -> torch.nn.Module:
        """The user's own module, not compiled."""
        module: torch.nn.Module = getattr(self.inner, "_orig_mod", self.inner)
        return module

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """Parameters that require a gradient now."""
        return [each for _, each in self.parameters if each.requires_grad]


def inspect(model: object, world_size: int, local_steps: int) -> WatchedModel:
    """Unwraps a model; raises a `ConfigurationError` when it cannot be watched."""
    import torch

    if not isinstance(model, torch.nn.Module):
        message = f"model is a {type(model).__name__}, not a torch.nn.Module: pass the module that is trained"
        raise ConfigurationError(message)
    outer = getattr(model, "_orig_mod", model)
    wrapper = outer if isinstance(outer, torch.nn.parallel.DistributedDataParallel) else None
    inner = wrapper.module if wrapper is not None else outer
    unwrapped = getattr(inner, "_orig_mod", inner)
    compiled = outer is not model or unwrapped is not inner or inner._compiled_call_impl is not None  # noqa: SLF001
    parameters = tuple(unwrapped.named_parameters())
    if not any(each.requires_grad for _, each in parameters):
        message = "model has no parameter that requires a gradient: attach after unfreezing, to the model that is trained"
        raise ConfigurationError(message)
    device = next(each.device for _, each in parameters if each.requires_grad)
    return WatchedModel(
        given=model,
        wrapper=wrapper,
        inner=inner,
        compiled=compiled,
        parallelism=_parallelism(unwrapped, parameters, wrapper is not None, world_size, local_steps),
        parameters=parameters,
        device=device,
        group=_process_group(wrapper),
    )


def _parallelism(
    module: torch.nn.Module,
    parameters: Sequence[tuple[str, torch.nn.Parameter]],
    wrapped: bool,
    world_size: int,
    local_steps: int,
) -> wire.Parallelism.ValueType:
    if world_size == 1:
        return wire.PARALLELISM_SINGLE
    if local_steps:
        return wire.PARALLELISM_LOCAL
    if wrapped:
        return wire.PARALLELISM_DATA_PARALLEL
    if type(module).__name__ == "FullyShardedDataParallel" or any(
        hasattr(each, "_local_tensor") for _, each in parameters
    ):
        return wire.PARALLELISM_SHARDED
    return wire.PARALLELISM_UNWRAPPED


def _process_group(wrapper: torch.nn.parallel.DistributedDataParallel | None) -> Any:
    import torch

    if wrapper is not None:
        return wrapper.process_group
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.group.WORLD
    return None


def collective_counter(model: WatchedModel) -> Callable[[], int]:
    """Returns a function that counts the collectives issued on the model's process group; it returns -1 when it cannot."""
    try:
        # Private, hence the fallbacks: no public call counts what was issued, and this one takes a quarter microsecond.
        backend = model.group._get_backend(model.device)  # noqa: SLF001
        count: Callable[[], int] = backend._get_sequence_number_for_group  # noqa: SLF001
        count()
    except Exception:
        return lambda: -1

    def guarded() -> int:
        try:
            return int(count())
        except Exception:
            return -1

    return guarded


def backend_name(model: WatchedModel) -> str:
    """Name of the torch.distributed backend, or an empty string."""
    import torch

    try:
        return str(torch.distributed.get_backend(model.group)) if model.group is not None else ""
    except Exception:
        return ""


def block_layout(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names of at most 512 blocks of consecutive parameters, and the block of each parameter."""
    count = len(names)
    if count <= MAX_BLOCKS:
        return list(names), list(range(count))
    index = [place * MAX_BLOCKS // count for place in range(count)]
    first: dict[int, str] = {}
    last: dict[int, str] = {}
    for name, block in zip(names, index, strict=True):
        first.setdefault(block, name)
        last[block] = name
    return [first[b] if first[b] == last[b] else f"{first[b]}..{last[b]}" for b in sorted(first)], index
