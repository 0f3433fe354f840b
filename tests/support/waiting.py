"""Waiting for a condition, with a deadline: tests never sleep for a time. And starting what takes long side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")

TURN_SECONDS = 0.5
"""What one turn of a wait counts for at most. Turns on an idle machine take a tenth of it."""


class Patience:
    """Seconds of waiting, of which those are not counted in which this process did not get to run.

    A machine that stands still for a minute, or that many processes share, does not use up a deadline: each turn of the waiting
    loop counts for `TURN_SECONDS` at most.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._left = seconds
        self._turned = time.monotonic()

    def lasts(self) -> bool:
        """Whether to wait for one more turn. Called once a turn."""
        now = time.monotonic()
        self._left -= min(now - self._turned, TURN_SECONDS)
        self._turned = now
        return self._left > 0


def wait_until(
    what: str, condition: Callable[[], Value], seconds: float = 60.0, interval: float = 0.05
) -> Value:
    """Return the first truthy value of `condition`; fail, naming `what`, when there is none in time."""
    patience = Patience(seconds)
    while True:
        if value := condition():
            return value
        assert patience.lasts(), f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(interval)


async def until(what: str, condition: Callable[[], Value], seconds: float = 20.0) -> Value:
    """The same without holding up the event loop; the condition is asked in another thread."""
    return await asyncio.to_thread(wait_until, what, condition, seconds)


def at_once(*actions: Callable[[], object]) -> None:
    """Do all actions side by side, such as starting services; raise the first error once all have ended."""
    with ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()
