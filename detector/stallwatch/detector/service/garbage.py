"""Garbage collection in a process that holds very many objects and must not stand still."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable

YOUNG, MIDDLE = 700, 5
"""Objects that make a look at the youngest, and how many of those make one at the next. Small ones: of 25,000 objects each took 30 to
70 ms where streams come and go."""
OLD = 1_400
"""How many of the latter make a look at everything, which at thousands of streams takes 0.15 s."""
LEAST_SECONDS = 60.0
"""Between two looks at everything that time brings."""
SHARE = 0.001
"""Of the time, at most."""


def prepare() -> None:
    """What is there when the service has started stays, and is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


async def collect_regularly(
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Look at everything now and then: runs and streams that are over are in cycles, and by number alone it takes hours."""
    pause = LEAST_SECONDS
    while True:
        await sleep(pause)
        began = clock()
        gc.collect()
        pause = max(LEAST_SECONDS, (clock() - began) / SHARE)
