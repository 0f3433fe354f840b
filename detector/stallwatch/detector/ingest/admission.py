"""Who may open a stream: no run takes all of them, and one that says nothing makes room for others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from stallwatch.detector.errors import TooManyStreamsError

MOST_OF_ALL = 0.75
"""Of all streams, for one run: what is left is for others."""
SILENT_SHARE = 0.25
"""Of all streams, for those that have not said yet who they are."""


class Admission:
    """Counts streams; only the event loop's thread touches it."""

    def __init__(self, max_streams: int, max_ranks_per_run: int) -> None:
        self._max_streams = max_streams
        self._max_ranks = max_ranks_per_run
        self._max_silent = max(1, int(SILENT_SHARE * max_streams))
        self._max_of_run = max(1, int(MOST_OF_ALL * max_streams))
        self._open = 0
        self._runs: Counter[str] = Counter()
        self._accounts: Counter[str] = Counter()
        self._silent: dict[asyncio.Event, None] = {}

    @contextmanager
    def unknown(self) -> Iterator[asyncio.Event]:
        """A stream that has not said who it is; the event says that it must go, having been silent for longest."""
        leave = asyncio.Event()
        self._silent[leave] = None
        if len(self._silent) > self._max_silent:
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.set()
        try:
            yield leave
        finally:
            self._silent.pop(leave, None)

    @contextmanager
    def admit(self, account: str, run: str, *, max_of_account: int | None = None) -> Iterator[None]:
        """A stream of a run; `TooManyStreamsError` says which limit is reached, and what to raise."""
        self._check(account, run, max_of_account)
        self._open += 1
        self._runs[run] += 1
        self._accounts[account] += 1
        try:
            yield
        finally:
            self._open -= 1
            for counts, name in ((self._runs, run), (self._accounts, account)):
                counts[name] -= 1
                if not counts[name]:
                    del counts[name]

    def _check(self, account: str, run: str, max_of_account: int | None) -> None:
        if self._open >= self._max_streams:
            raise TooManyStreamsError(
                "too_many_streams",
                f"as many streams are open as are allowed at a time ({self._max_streams}): "
                "raise STALLWATCH_MAX_STREAMS, or start another detector",
            )
        if max_of_account is not None and self._accounts[account] >= max_of_account:
            raise TooManyStreamsError(
                "too_many_streams_of_account",
                f"{account} has as many streams open as it may ({max_of_account}): raise the limit of its token",
            )
        if self._runs[run] >= self._max_ranks:
            raise TooManyStreamsError(
                "too_many_ranks",
                f"run {run} has as many streams open as a run may ({self._max_ranks}): "
                "raise STALLWATCH_MAX_RANKS_PER_RUN",
            )
        if self._runs[run] >= self._max_of_run:
            raise TooManyStreamsError(
                "too_many_ranks",
                f"run {run} has {self._max_of_run} streams open, and the others of {self._max_streams} are kept for "
                "other runs: raise STALLWATCH_MAX_STREAMS, or start another detector",
            )
