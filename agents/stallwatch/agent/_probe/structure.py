"""Whether the model still consists of the parameters it had, whether the optimizer holds them, and whether DDP knows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.model import WatchedModel

_A_STEP = 64
"""Entries compared a step, at about 0.1 us each: a model of 1,000 parameters is compared within some 40 steps."""
_NAMES = 4
"""Parameters named in a sentence."""


class Structure:
    """Compares modules and parameters with those that were there, a few at a step."""

    def __init__(self, model: WatchedModel) -> None:
        self._model = model
        # FSDP exchanges parameters in every forward, and means to.
        self._usable = model.parallelism != wire.PARALLELISM_SHARDED
        self._entries: list[tuple[dict[str, Any], str, Any]] = []
        self._flags: list[tuple[torch.Tensor, bool]] = []
        self._next = self._next_flag = 0
        self.note()

    def note(self) -> None:
        """What is there now is what is compared with."""
        self._next = self._next_flag = 0
        self._entries, self._flags = [], []
        if not self._usable:
            return
        for module in self._model.module.modules():
            for children in (module._modules, module._parameters):  # noqa: SLF001 - what `setattr` changes
                self._entries += [(children, name, child) for name, child in children.items()]
        self._flags = [(each, each.requires_grad) for _, each in self._model.parameters]

    @property
    def trained(self) -> int:
        """Parameters that required a gradient when it was noted."""
        return sum(flag for _, flag in self._flags)

    def is_replaced(self) -> bool:
        """Whether one of the modules or parameters whose turn it is has been replaced or taken away."""
        entries = self._entries
        if self._next >= len(entries):
            self._next = 0
        part = entries[self._next : self._next + _A_STEP]
        self._next += _A_STEP
        return any(children.get(name) is not child for children, name, child in part)

    def is_refrozen(self) -> bool:
        """Whether one of the parameters whose turn it is was frozen or unfrozen."""
        flags = self._flags
        if self._next_flag >= len(flags):
            self._next_flag = 0
        part = flags[self._next_flag : self._next_flag + _A_STEP]
        self._next_flag += _A_STEP
        return any(each.requires_grad is not flag for each, flag in part)


def unheld(model: WatchedModel, optimizers: Iterable[torch.optim.Optimizer]) -> str:
    """A sentence about trainable parameters that no optimizer holds; empty when all are held."""
    held = {
        id(each) for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]
    }
    trainable = [(name, each) for name, each in model.parameters if each.requires_grad]
    missing = [(name, each) for name, each in trainable if id(each) not in held]
    if not missing:
        return ""
    which = f"{len(missing)} of {len(trainable)}"
    if len(missing) == len(trainable):
        which = f"none of the {len(trainable)}" if held else "no"
        return (
            f"the optimizer holds {which} trainable parameters of the watched model: make it after the model is in its last form, "
            "and from its own parameters()"
        )
    return (
        f"the optimizer does not hold {which} trainable parameters ({_names(name for name, _ in missing)}): they will not be "
        "updated; if that is meant, freeze them with requires_grad_(False)"
    )


def unreduced(model: WatchedModel) -> str:
    """A sentence about trainable parameters that DDP does not average; empty when it averages all, or when that is not known."""
    wrapper = model.wrapper
    if wrapper is None:
        return ""
    try:
        # Private, hence the guard: nothing public says what the reducer was made with.
        known = int(wrapper._get_ddp_logging_data()["num_parameter_tensors"])  # noqa: SLF001
    except Exception:
        return ""
    ignored = set(getattr(wrapper, "parameters_to_ignore", ()))
    trainable = sum(
        each.requires_grad and name not in ignored for name, each in wrapper.module.named_parameters()
    )
    if trainable <= known:
        return ""
    return (
        f"DDP averages the gradients of {known} parameters, and {trainable} require one: wrap the model in "
        "DistributedDataParallel again after unfreezing or adding layers, or every rank trains the others by itself"
    )


def _names(names: Iterable[str]) -> str:
    some = list(names)
    shown = ", ".join(some[:_NAMES])
    return f"{shown} and {len(some) - _NAMES} more" if len(some) > _NAMES else shown


def followed(model: WatchedModel, known: Iterable[str]) -> list[tuple[str, torch.nn.Parameter]]:
    """The model's parameters now, as far as they bear a known name."""
    names = set(known)
    return [(name, each) for name, each in model.module.named_parameters() if name in names]
