"""A connection that says nothing whole, or hears nothing, is ended: it would be held for ever otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For a request's head to come, from the connection or the end of the request before on."""
ANSWER_SECONDS = 60.0
"""For an answer to be made and read."""


class BoundedConnection(H11Protocol):
    """Uvicorn's own, with an end to patience."""

    _timer: asyncio.TimerHandle | None = None
    _answering: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        super().data_received(data)
        # A request that is being answered has a cycle of its own.
        if self.cycle is not self._answering:
            self._answering = self.cycle
            self._wait(ANSWER_SECONDS)

    def on_response_complete(self) -> None:
        """The answer was given to the system to send."""
        self._wait(HEAD_SECONDS)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more to wait for."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)
