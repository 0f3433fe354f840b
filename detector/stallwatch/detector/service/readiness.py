"""What keeps the service from being ready. Everybody may ask, also while the store does not answer, and looking writes to the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store
from stallwatch.detector.trouble import Trouble

LOOK_SECONDS = 1.0
"""One look serves all who ask for so long."""
CHECK_SECONDS = 1.0
"""A store that takes longer to answer is a problem to be told; probes must not wait for it."""
STORE_SECONDS = 2.0
"""How long one look waits for another process's transaction."""

log = logging.getLogger(__name__)


class Readiness:
    """One look at the store at a time, in a thread of its own, for all who ask.

    Problems are told with addresses only where `in_full`: not where readers are asked who they are, since this is open.
    """

    def __init__(self, url: str, stopping: Callable[[], bool], *, in_full: bool) -> None:
        self._store = Store(url, busy_seconds=STORE_SECONDS)
        self._stopping = stopping
        self._in_full = in_full
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._look: asyncio.Future[str | None] | None = None
        self._looking_since = 0.0
        self._trouble = Trouble(log)

    async def problems(self) -> list[str]:
        """Sentences; none when the service is ready."""
        import ray

        found = ["shutting down"] if self._stopping() else []
        if (problem := await self._of_store()) is not None:
            found.append(problem if self._in_full else "the store cannot be written: the log says why")
        if not ray.is_initialized():
            found.append("Ray is gone")
        return found

    def close(self) -> None:
        """Look no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    async def _of_store(self) -> str | None:
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._looking_since >= LOOK_SECONDS):
            self._look = asyncio.get_running_loop().run_in_executor(self._thread, self._check)
            self._looking_since = now
        # Not a timeout around it: the look goes on, and whoever asks next hears what came of it.
        await asyncio.wait({self._look}, timeout=CHECK_SECONDS)
        if self._look.done():
            return self._look.result()
        waited = time.monotonic() - self._looking_since
        return f"the store {self._store.shown_url} has not answered for {waited:.0f} s"

    def _check(self) -> str | None:
        try:
            self._store.check()
        except StoreError as error:
            self._trouble.failed(f"not ready: {error}")
            return str(error)
        self._trouble.over("ready")
        return None
