"""Attaches to whatever a script trains, without a change to the script.

Three places of torch are wrapped for the life of the process: the constructor of DistributedDataParallel, which is where a
model shows itself; `Tensor.backward`, which is where a loss does; and `GradScaler.scale`, behind which the loss is another
number. The optimizer is the first that steps one of the model's parameters. A script that calls `attach` itself takes over.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stallwatch.agent._attach import attach
from stallwatch.agent._errors import StallwatchError
from stallwatch.agent._probe.hooks import Hook, is_of_signal_handler

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._agent import Core

logger = logging.getLogger("stallwatch.agent")


class AutoAttachment:
    """The state of one process: at most one model is attached to."""

    def __init__(self) -> None:
        self._core: Core | None = None
        self._samples = 0
        self._given_up = False
        self._first_forward: Any = None
        self._unscaled: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None

    def install(self) -> None:
        """Wraps the three places, and waits for a first forward where there is only one process."""
        import torch

        ddp: Any = torch.nn.parallel.DistributedDataParallel
        ddp.__init__ = _after(ddp.__init__, self._on_ddp)
        tensor: Any = torch.Tensor
        tensor.backward = _before(tensor.backward, self._on_backward)
        scaler: Any = torch.amp.GradScaler
        scaler.scale = _with_result(scaler.scale, self._on_scale)
        self._first_forward = torch.nn.modules.module.register_module_forward_pre_hook(self._on_first_forward)

    def _attach(self, model: torch.nn.Module) -> None:
        if self._core is not None or self._given_up:
            return
        self._given_up = True
        self._forget_first_forward()
        try:
            agent = attach(model)
        except StallwatchError as error:
            # A script without Stallwatch has to run as it would alone, whatever the environment holds.
            logger.warning("stallwatch: not watching: %s", error)
            return
        self._core = core = agent._core  # noqa: SLF001 -- the same package
        if core is not None:
            core.automatic = True
            for module in (core.model.given, core.model.inner):
                module.register_forward_pre_hook(Hook(core.guard, self._on_forward), with_kwargs=True)

    def _forget_first_forward(self) -> None:
        handle, self._first_forward = self._first_forward, None
        if handle is not None:
            handle.remove()

    def _on_ddp(self, model: torch.nn.Module, *_: object, **__: object) -> None:
        self._attach(model)

    def _on_first_forward(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        """Where no DDP tells which model is trained: the outermost module of the first forward that records gradients."""
        import torch

        try:
            distributed = torch.distributed
            several = (
                distributed.is_available()
                and distributed.is_initialized()
                and distributed.get_world_size() > 1
            )
            sharded = any(hasattr(each, "_local_tensor") for each in module.parameters())
            trains = (
                module.training
                and torch.is_grad_enabled()
                and any(p.requires_grad for p in module.parameters())
            )
            if trains and (sharded or not several):
                self._attach(module)
                self._on_forward(0.0, module, arguments, {})
        except Exception as error:
            self._fail(error)

    def _on_forward(
        self, _now: float, _module: object, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        for value in (*arguments, *keywords.values()):
            size = getattr(value, "shape", None)
            if size:
                self._samples = int(size[0])
                return

    def _on_backward(self, loss: torch.Tensor, *_: object, **__: object) -> None:
        core = self._core
        # What is not a scalar is no loss; a GAN's other loss goes through here too, and is summed with the first.
        if core is None or not core.automatic or loss.numel() != 1:
            return
        scaled, self._unscaled = self._unscaled, None
        core.log(scaled[1] if scaled is not None and scaled[0]() is loss else loss, self._samples, None, None)

    def _on_scale(self, result: Any, _scaler: object, outputs: Any, *_: object) -> None:
        if hasattr(result, "backward"):
            self._unscaled = (weakref.ref(result), outputs.detach())

    def _fail(self, error: Exception) -> None:
        self._given_up = True
        self._forget_first_forward()
        logger.warning("stallwatch: could not attach, training is not affected: %r", error)


def _guarded(observer: Callable[..., None], *arguments: Any, **keywords: Any) -> None:
    try:
        observer(*arguments, **keywords)
    except Exception as error:
        if is_of_signal_handler(error):
            raise
        logger.debug("stallwatch: internal error, training is not affected: %r", error, exc_info=error)


def _before(function: Callable[..., Any], observer: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        _guarded(observer, *arguments, **keywords)
        return function(*arguments, **keywords)

    return wrapper


def _after(function: Callable[..., Any], observer: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        _guarded(observer, *arguments, **keywords)
        return result

    return wrapper


def _with_result(function: Callable[..., Any], observer: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        _guarded(observer, result, *arguments, **keywords)
        return result

    return wrapper
