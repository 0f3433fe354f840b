"""Failed attempts, by the address that they come from: so many at once, then so many a second."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 30
"""Failed attempts at once."""
PER_SECOND = 0.5
MOST_ADDRESSES = 4096
"""Remembered; the one that has been quiet for longest gives way."""


class Throttle:
    """A token bucket an address. Only failures are counted: who has a valid token is never kept out by a neighbour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def fail(self, address: str) -> bool:
        """Count a failed attempt; False when there were too many."""
        now = self._clock()
        left, at = self._buckets.pop(address, (float(BURST), now))
        left = min(float(BURST), left + (now - at) * PER_SECOND)
        allowed = left >= 1.0
        self._buckets[address] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return allowed

    def __len__(self) -> int:
        """Addresses remembered."""
        return len(self._buckets)
