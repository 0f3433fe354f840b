"""Uvicorn in the service's own event loop, without its hands on signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette

from stallwatch.detector.errors import UsageError
from stallwatch.detector.http.connections import BoundedConnection

GRACE_SECONDS = 2
MOST_CONNECTIONS = 512
"""Beyond these a request is answered with 503 at once."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The service decides what a signal means."""
        yield


class _Config(uvicorn.Config):
    """Takes a context that is made already; uvicorn's own would keep the first certificate for good."""

    def __init__(self, app: Starlette, tls: ssl.SSLContext | None, **options: Any) -> None:
        super().__init__(app, **options)
        self._tls = tls

    def load(self) -> None:
        super().load()
        self.ssl = self._tls


class HttpServer:
    """Listens from `bind` on, serves from `start` to `stop`; with TLS where there is a context for it."""

    def __init__(self, app: Starlette, tls: ssl.SSLContext | None = None) -> None:
        config = _Config(
            app,
            tls,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            http=BoundedConnection,
            limit_concurrency=MOST_CONNECTIONS,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, bound: socket.socket) -> None:
        """Serve on a socket that is bound already."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]), name="http")
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Finish what is being answered."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


def bind(host: str, port: int, option: str = "--http-port") -> socket.socket:
    """A listening socket; its port is a free one when 0 was asked for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # Without this, a second service could bind the port until the first one listens.
        bound.listen(128)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {host}:{port} ({reason}): choose another {option}") from error
    bound.setblocking(False)
    return bound
