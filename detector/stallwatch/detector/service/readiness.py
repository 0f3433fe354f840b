"""What keeps the service from being ready: asked often, by several, and also while the store does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store

CHECK_SECONDS = 1.0
"""A store that takes longer to answer is a problem to be told; probes must not wait for it."""
STORE_SECONDS = 2.0
"""How long one look waits for another process's transaction."""


class Readiness:
    """One look at the store at a time, in a thread of its own, for all who ask."""

    def __init__(self, url: str, stopping: Callable[[], bool]) -> None:
        self._store = Store(url, busy_seconds=STORE_SECONDS)
        self._stopping = stopping
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._look: asyncio.Future[str | None] | None = None
        self._looking_since = 0.0

    async def problems(self) -> list[str]:
        """Sentences; none when the service is ready."""
        import ray

        found = ["shutting down"] if self._stopping() else []
        if (problem := await self._of_store()) is not None:
            found.append(problem)
        if not ray.is_initialized():
            found.append("Ray is gone")
        return found

    def close(self) -> None:
        """Look no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    async def _of_store(self) -> str | None:
        if self._look is None or self._look.done():
            self._look = asyncio.get_running_loop().run_in_executor(self._thread, self._check)
            self._looking_since = time.monotonic()
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
            return str(error)
        return None
