"""Waiting for a condition, with a deadline: tests never sleep for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(
    what: str, condition: Callable[[], Value], seconds: float = 60.0, interval: float = 0.05
) -> Value:
    """Return the first truthy value of `condition`; fail, naming `what`, when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(interval)


async def until(what: str, condition: Callable[[], Value], seconds: float = 20.0) -> Value:
    """The same without holding up the event loop; the condition is asked in another thread."""
    return await asyncio.to_thread(wait_until, what, condition, seconds)
