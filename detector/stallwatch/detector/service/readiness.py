"""What keeps the service from being ready. Everybody may ask, and looking writes to the store: one look serves all for a second."""

from __future__ import annotations

import asyncio
import logging
import time

from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store

LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Readiness:
    """Looks at store and Ray, at most once in `LOOK_SECONDS`."""

    def __init__(self, store: Store, *, in_full: bool) -> None:
        self._store = store
        self._in_full = in_full
        """Whether problems are told with addresses; not where readers are asked who they are, since this is open."""
        self._look: asyncio.Task[list[str]] | None = None
        self._looked_at = 0.0

    async def problems(self) -> list[str]:
        """Everything that is wrong, or was a moment ago."""
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._looked_at >= LOOK_SECONDS):
            self._looked_at = now
            self._look = asyncio.create_task(asyncio.to_thread(self._found), name="readiness")
        # Whoever asked first may hang up.
        return await asyncio.shield(self._look)

    def _found(self) -> list[str]:
        import ray

        found = []
        try:
            self._store.check()
        except StoreError as error:
            log.warning("not ready: %s", error)
            found.append(str(error) if self._in_full else "the store cannot be written: the log says why")
        if not ray.is_initialized():
            found.append("Ray is gone")
        return found
