"""Hooks that never raise into training, cost what they say they cost, and stay behind when a model is copied."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

logger = logging.getLogger("stallwatch.agent")


class Guard:
    """Stands between the agent's own mistakes and the training: counts them, and turns the agent off when they repeat."""

    limit = 8

    def __init__(self, on_disable: Callable[[], None]) -> None:
        self.active = True
        self.seconds = 0.0
        """Wall seconds spent in hooks and calls on the training thread."""
        self.errors = 0
        self._on_disable = on_disable

    def failed(self, error: BaseException) -> None:
        """Counts an error of the agent's own."""
        if is_of_signal_handler(error):
            # The script's own, and meant for what it interrupted; that this was a hook is chance.
            raise error
        self.errors += 1
        # What handles the script's log may raise, too.
        with contextlib.suppress(Exception):
            if self.errors == 1:
                logger.warning(
                    "stallwatch: internal error, training is not affected: %r", error, exc_info=error
                )
            elif self.errors == self.limit:
                self.active = False
                logger.warning(
                    "stallwatch: %d internal errors, the agent turns itself off; the last: %r",
                    self.limit,
                    error,
                )
        if self.errors == self.limit:
            with contextlib.suppress(Exception):
                self._on_disable()


def is_of_signal_handler(error: BaseException) -> bool:
    """Whether a handler of the script raised it: a time limit by SIGALRM, say."""
    codes = set()
    place = error.__traceback__
    while place is not None:
        codes.add(place.tb_frame.f_code)
        place = place.tb_next
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, signal.Handlers):
            while isinstance(handler, functools.partial):
                handler = handler.func
            function = getattr(handler, "__func__", handler)
            code = getattr(function, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
            if code in codes:
                return True
    return False


class Hook:
    """A guarded hook. The wrapped function gets the time first, then the hook's arguments; its result is not used."""

    __slots__ = ("__weakref__", "_compiling", "_function", "_guard")

    def __init__(self, guard: Guard, function: Callable[..., object]) -> None:
        from torch.compiler import is_compiling

        self._guard = guard
        self._function = function
        self._compiling = is_compiling

    def __call__(self, *arguments: Any) -> None:
        # First, so that torch.compile finds nothing to trace here.
        if self._compiling() or not self._guard.active:
            return
        guard = self._guard
        now = perf_counter()
        try:
            self._function(now, *arguments)
        except Exception as error:
            guard.failed(error)
        guard.seconds += perf_counter() - now

    # A copied or saved model must neither drag the agent along nor need Stallwatch to be loaded again: in its place stands
    # a callable of the standard library that takes anything and returns None.
    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return contextlib.nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


class ArgumentHook(Hook):
    """A guarded hook whose function may return other arguments for what it hooks: an optimizer's step pre-hook."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        if self._compiling() or not self._guard.active:
            return None
        guard = self._guard
        now = perf_counter()
        changed = None
        try:
            changed = self._function(now, *arguments)
        except Exception as error:
            guard.failed(error)
        guard.seconds += perf_counter() - now
        return changed


def let_jit_pass() -> None:
    """Has `torch.jit.script` compile watched modules as if they were not: it would compile their hooks, too, which are no functions.

    Private, and left as it is where it looks different: no public switch leaves out a hook.
    """
    import torch

    recursive = getattr(torch.jit, "_recursive", None)
    create = getattr(recursive, "create_script_module", None)
    if create is None or hasattr(create, "_stallwatch"):
        return

    @functools.wraps(create)
    def create_without_hooks(module: Any, *arguments: Any, **keywords: Any) -> Any:
        with _hooks_taken_off(module):
            return create(module, *arguments, **keywords)

    create_without_hooks._stallwatch = True  # type: ignore[attr-defined]  # noqa: SLF001
    recursive.create_script_module = create_without_hooks  # type: ignore[union-attr]


@contextlib.contextmanager
def _hooks_taken_off(module: Any) -> Iterator[None]:
    import torch

    kept: list[tuple[dict[int, Any], dict[int, Any]]] = []
    if isinstance(module, torch.nn.Module):
        for each in module.modules():
            for hooks in (each._forward_pre_hooks, each._forward_hooks):  # noqa: SLF001
                if any(isinstance(hook, Hook) for hook in hooks.values()):
                    kept.append((hooks, dict(hooks)))
                    for key in [key for key, hook in hooks.items() if isinstance(hook, Hook)]:
                        del hooks[key]
    try:
        yield
    finally:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)


class WatchedClosure:
    """A closure of `optimizer.step`, and what is to be read when it returns: the gradients are there only then."""

    __slots__ = ("_closure", "_hook")

    def __init__(self, closure: Callable[..., Any], hook: Hook) -> None:
        self._closure = closure
        self._hook = hook

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        result = self._closure(*arguments, **keywords)
        self._hook()
        return result
