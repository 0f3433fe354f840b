"""Readers have their share of the event loop too: a flood of requests does not hold up what agents send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset({"/livez", "/readyz"})
"""Always answered at once."""


class Turns(Protocol):
    """What requests of one sort take of the service."""

    async def turn(self) -> float:
        """Wait until a request may be worked on; return for how many seconds that was."""
        ...


Carry = Callable[[Any, Coroutine[Any, Any, None]], Awaitable[None]]
"""Does the work of one request, and charges what it took to a `Turns`."""


class FairShares:
    """Middleware: scrapes, the API and the page each wait for their own turn."""

    def __init__(self, app: ASGIApp, turns_of: Callable[[str], Turns], carry: Carry) -> None:
        self._app = app
        self._turns = {sort: turns_of(sort) for sort in ("metrics", "api", "page")}
        self._carry = carry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, then answer."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in PROBES:
            await self._app(scope, receive, send)
            return
        sort = "metrics" if path == "/metrics" else "api" if path.startswith("/api/") else "page"
        turns = self._turns[sort]
        await turns.turn()

        async def answer() -> None:
            await self._app(scope, receive, send)

        await self._carry(turns, answer())
