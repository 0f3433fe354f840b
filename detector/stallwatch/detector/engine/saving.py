"""Writing snapshots in a thread: an analyzer whose store is busy goes on with what agents send."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

from stallwatch.detector.errors import StoreError


@dataclass(frozen=True, slots=True)
class Written:
    """How a write ended."""

    seconds: float
    problem: str = ""
    """Empty when it is on disk."""


class Saver:
    """Does one write at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "snapshot")
        self._writing: Future[Written] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there is one whose end was not asked for yet."""
        return self._writing is not None

    def begin(self, write: Callable[[], None]) -> None:
        """Start one."""
        assert self._writing is None
        self._writing = self._thread.submit(_timed, write)

    def end(self, wait: float | None) -> Written | None:
        """How it ended; None when it has not within so many seconds (None: however long it takes), or there is none."""
        if self._writing is None or not wait_for([self._writing], wait).done:
            return None
        ended, self._writing = self._writing, None
        return ended.result()

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown()


def _timed(write: Callable[[], None]) -> Written:
    started = time.perf_counter()
    try:
        write()
    except (StoreError, OSError) as error:
        return Written(time.perf_counter() - started, str(error))
    return Written(time.perf_counter() - started)
