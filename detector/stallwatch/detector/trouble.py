"""What goes wrong again and again, said in the log as often as a person wants to read it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

REMIND_SECONDS = 60.0
"""While it lasts it is said again this often."""


class Trouble:
    """One thing that is tried again until it succeeds: the log says when it began to fail, that it still does, and when it is over.

    Args:
        log: Whose message it is.
        level: Of the messages of failures; that it is over is an INFO.
        clock: Seconds.
    """

    def __init__(
        self,
        log: logging.Logger,
        level: int = logging.WARNING,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._level = level
        self._clock = clock
        self._began_at: float | None = None
        self._said_at = 0.0
        self._failures = 0

    def failed(self, what: str) -> None:
        """It failed, once more maybe; `what` is a sentence that says what and why."""
        now = self._clock()
        self._failures += 1
        if self._began_at is None:
            self._began_at = self._said_at = now
            self._log.log(self._level, "%s", what)
        elif now - self._said_at >= REMIND_SECONDS:
            self._said_at = now
            self._log.log(self._level, "%s (%s)", what, self._so_far(now))

    def over(self, what: str) -> None:
        """It succeeded, as it does most of the time; `what` is said when it had failed before."""
        if self._began_at is not None:
            self._log.info("%s (after %s)", what, self._so_far(self._clock()))
            self._began_at = None
            self._failures = 0

    def _so_far(self, now: float) -> str:
        assert self._began_at is not None
        times = "1 failure" if self._failures == 1 else f"{self._failures} failures"
        return f"{times} in {now - self._began_at:.0f} s"
