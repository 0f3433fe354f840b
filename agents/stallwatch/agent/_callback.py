"""Calls the user's `on_finding` on a thread of its own: what it does there, or never ends doing, holds up nothing else."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from stallwatch.v1 import telemetry_pb2 as wire

logger = logging.getLogger("stallwatch.agent")

MOST_WAITING = 64


class FindingCallback:
    """One user's function, and the findings it has not been called with yet."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function
        self._waiting: queue.Queue[wire.FindingNotice | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._over = False
        self._complained = False

    def deliver(self, finding: wire.FindingNotice) -> None:
        """Queues a finding; leaves it out when the function has not returned for too many. Called by one thread at a time."""
        if self._over:
            return
        try:
            self._waiting.put_nowait(finding)
        except queue.Full:
            if not self._complained:
                self._complained = True
                logger.warning(
                    "stallwatch: on_finding has not returned while %d findings wait; further ones are left out",
                    MOST_WAITING,
                )
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="stallwatch-findings", daemon=True)
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """Ends the thread once the function has returned."""
        self._over = True
        # When it is full, the thread is inside the function, and looks at the flag when it has seen to the rest.
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)

    def _run(self) -> None:
        while (finding := self._waiting.get()) is not None:
            try:
                self._function(finding)
            except BaseException as error:
                # Even SystemExit: it would end this thread, and not what the script meant.
                with contextlib.suppress(Exception):
                    logger.warning("stallwatch: on_finding raised %r", error, exc_info=error)
            if self._over and self._waiting.empty():
                return
