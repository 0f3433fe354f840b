"""Files that change while the service runs: tokens and certificates are rotated without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

WATCH_SECONDS = 1.0
"""Between two looks. The files are small, and read whole: times of change do not say everything."""

log = logging.getLogger(__name__)


class Refreshable(Protocol):
    """Something that was read from files."""

    def refresh(self) -> bool:
        """Read them again, and say whether something changed."""
        ...


async def watch(
    files: Sequence[Refreshable], after: Callable[[], None] = lambda: None, seconds: float = WATCH_SECONDS
) -> None:
    """Keep looking; `after` is called after each look, changed or not, since time alone ends what expires."""
    while True:
        await asyncio.sleep(seconds)
        try:
            for each in files:
                await asyncio.to_thread(each.refresh)
            after()
        except Exception:
            log.exception("tokens and certificates were not looked after")
