"""The ends of a process: forked children and exits."""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stallwatch.agent._agent import Core


class ForkReset:
    """Called in forked children, for as long as the core lives; such callbacks cannot be taken back."""

    def __init__(self, core: Core) -> None:
        self._core = weakref.ref(core)

    def __call__(self) -> None:
        core = self._core()
        if core is not None and not core.closed:
            core.abandon()


class ExitFlush:
    """Closes an agent that the script did not close."""

    def __init__(self, core: Core) -> None:
        self._core = weakref.ref(core)

    def __call__(self) -> None:
        core = self._core()
        if core is not None:
            error = getattr(sys, "last_value", None)
            core.close("finished" if error is None else f"exception: {type(error).__name__}")


def at_exit(callback: Callable[[], None]) -> None:
    """Calls something when the main thread is done."""
    # Before the interpreter refuses new threads, of which a connection needs two. Private, and the public one is next best.
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(callback)
    except RuntimeError:
        atexit.register(callback)
