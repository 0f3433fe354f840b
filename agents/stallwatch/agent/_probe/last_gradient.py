"""Tells when the last gradient of a backward is there, and when the backward is over, by one hook on one parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stallwatch.agent._probe.hooks import Hook

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._probe.hooks import Guard
    from stallwatch.agent._probe.model import WatchedModel


class LastGradient:
    """Learns in one backward, by hooks on all parameters, whose gradient is ready last, and keeps the hook on that one.

    Calls back, always on the training thread: `any_ready` for each gradient while it learns, `learned` at the end of that
    backward, `ready` from the next one on, and `over` after what DDP does at the end of a backward.
    """

    def __init__(
        self,
        model: WatchedModel,
        guard: Guard,
        *,
        any_ready: Callable[[float], None],
        learned: Callable[[], None],
        ready: Callable[[float], None],
        over: Callable[[float], None],
    ) -> None:
        from torch.autograd import Variable

        self._model = model
        self._guard = guard
        self._any_ready, self._learned, self._ready = any_ready, learned, ready
        # torch's own wrappers (DDP, FSDP) end their work in the same way.
        self._queue_callback: Callable[[Callable[[], None]], None] = Variable._execution_engine.queue_callback  # noqa: SLF001
        self._over = Hook(guard, over)
        self._handles: list[Any] = []
        self._last: Any = None

    @property
    def is_learning(self) -> bool:
        """Whether there are hooks on several parameters."""
        return len(self._handles) > 1

    def learn(self) -> None:
        """Put a hook on every parameter for one backward."""
        self._last = None
        self.remove()
        self._handles = [
            each.register_post_accumulate_grad_hook(Hook(self._guard, self._on_any))
            for each in self._model.trainable
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _on_any(self, now: float, parameter: torch.Tensor) -> None:
        if self._last is None:
            self._queue_callback(self._on_learned)
        self._last = parameter
        self._any_ready(now)

    def _on_learned(self) -> None:
        try:
            last, self._last = self._last, None
            self.remove()
            if last is not None:
                self._handles.append(
                    last.register_post_accumulate_grad_hook(Hook(self._guard, self._on_last))
                )
            self._learned()
            self._queue_callback(self._later)
        except Exception as error:
            self._guard.failed(error)

    def _on_last(self, now: float, _parameter: torch.Tensor) -> None:
        self._ready(now)
        self._queue_callback(self._soon)

    # The engine runs callbacks in the order of their queueing. DDP queues its wait for the last bucket after this hook, and
    # with a static graph from a callback of its own: the third in a row comes after both.
    def _soon(self) -> None:
        try:
            self._queue_callback(self._later)
        except Exception as error:
            self._guard.failed(error)

    def _later(self) -> None:
        try:
            self._queue_callback(self._over)
        except Exception as error:
            self._guard.failed(error)
