"""The ends of a process: forked children and exits."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stallwatch.agent._agent import Core

CLOSE_SECONDS = 5.0
"""How long a process waits at most for the detector when it ends, however many agents it has."""

_live: weakref.WeakSet[Core] = weakref.WeakSet()
_lock = threading.Lock()
_registered = False
_has_client_of_parent = False
"""Whether this process was forked from one that had an agent."""


def leave_forks_alone() -> None:
    """Turns gRPC's own handling of forks off. It is read when gRPC is imported, so this is called before.

    With it a line is in the job's log for each fork of the process, that is for each worker of a data loader. Worse, gRPC's
    threads are started again in a child that is about to close its files and become another program, as `subprocess` does it
    with `preexec_fn`, and about one such child in a hundred then ends by SIGABRT. That it is off is what gRPC for Python says
    anyway; who needs it sets it, and it is left.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def is_forked_from_a_watched_process() -> bool:
    """Whether gRPC, which the parent used, must not be touched here: its threads did not come along, its locks may be held."""
    return _has_client_of_parent


def follow(core: Core) -> None:
    """From now on the core hears of forks and of the end of the process."""
    global _registered  # noqa: PLW0603 -- such callbacks cannot be taken back, so there is one for all
    with _lock:
        if not _registered:
            _registered = True
            os.register_at_fork(after_in_child=_abandon_all)
            _at_exit()
        _live.add(core)


def forget(core: Core) -> None:
    """It is closed."""
    with _lock:
        _live.discard(core)


def _abandon_all() -> None:
    """In a forked child, whose only thread is the one that forked."""
    global _has_client_of_parent, _lock  # noqa: PLW0603 -- another thread may have held it
    _has_client_of_parent = True
    _lock = threading.Lock()
    cores = list(_live)
    _live.clear()
    for core in cores:
        core.abandon()


def _close_all() -> None:
    """Closes what the script did not close: all say goodbye before any is waited for."""
    error = getattr(sys, "last_value", None)
    reason = "finished" if error is None else f"exception: {type(error).__name__}"
    deadline = monotonic() + CLOSE_SECONDS
    cores = [core for core in list(_live) if core.begin_close(reason, deadline)]
    for core in cores:
        core.end_close(deadline)


def _at_exit() -> None:
    """Has `_close_all` called when the main thread is done."""
    # Before the interpreter refuses new threads, of which a connection needs two. Private, and the public one is next best.
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_close_all)
    except RuntimeError:
        atexit.register(_close_all)
