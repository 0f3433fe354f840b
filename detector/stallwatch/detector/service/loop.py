"""The event loop of the service, on which gRPC's news of thousands of streams comes through at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

GRPC_QUEUE = "PollerCompletionQueue"
"""gRPC's own class, whose method the loop calls when there is something to read."""
MOST_WAKE_UPS = 65536


class ServiceLoop(asyncio.SelectorEventLoop):
    """Takes all wake-ups of gRPC's poller thread in one turn.

    The poller writes a byte for each event, and gRPC's reader (`grpc/_cython/_cygrpc/aio/completion_queue.pyx.pxi`) takes all
    events but a single byte. With some 200 bytes the socket is full, and then the poller waits in its write until the loop has
    made some hundred turns more: with 2,000 ranks that hold each turn, every run's messages lay there for up to 0.8 s.
    """

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """As any loop does, but for gRPC's reader."""
        owner = getattr(getattr(callback, "func", callback), "__self__", None)
        if isinstance(fd, socket.socket) and type(owner).__name__ == GRPC_QUEUE:
            callback = _taking_all(fd, callback)
        super().add_reader(fd, callback, *args)


class _Policy(asyncio.DefaultEventLoopPolicy):
    """What `asyncio.run` asks for a loop; its own parameter for that is of Python 3.12."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return ServiceLoop()


def run(work: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, on a loop of the service."""
    asyncio.set_event_loop_policy(_Policy())
    asyncio.run(work)


def _taking_all(wakened: socket.socket, callback: Callable[..., Any]) -> Callable[..., None]:
    """A reader that leaves one byte to the one it stands for, which then handles all events.

    An event is queued before its byte is written, so of those whose bytes are taken here none is missed.
    """

    def read(*args: Any) -> None:
        try:
            waiting = len(wakened.recv(MOST_WAKE_UPS, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return
        if waiting > 1:
            wakened.recv(waiting - 1)
        callback(*args)

    return read
