"""A queue that is bounded in bytes: what the training thread fills and the background thread empties."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from stallwatch.agent._buffer import DropCounter
from stallwatch.v1 import telemetry_pb2 as wire

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """Items in order, the oldest dropped and counted when the bytes are full. Never waits for more than a few instructions.

    Args:
        limit_bytes: Most bytes to hold; the newest item is held even when it is larger.
        drops: Where losses are counted.
        step: The step of an item.
    """

    def __init__(self, limit_bytes: int, drops: DropCounter, step: Callable[[Item], int]) -> None:
        self._limit_bytes = limit_bytes
        self._drops = drops
        self._step = step
        # Reentrant, for a signal handler of the script may add while the thread it interrupts does.
        self._lock = threading.RLock()
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """Bytes held, as those who put the items in estimated them."""
        return self._bytes

    @property
    def crowded(self) -> bool:
        """Whether more than half of the bytes are taken."""
        return 2 * self._bytes > self._limit_bytes

    def put(self, item: Item, size: int) -> None:
        """Adds an item of this many bytes."""
        with self._lock:
            while self._items and self._bytes + size > self._limit_bytes:
                lost, lost_size = self._items.popleft()
                self._bytes -= lost_size
                step = self._step(lost)
                self._drops.add(wire.DROP_REASON_BUFFER_FULL, 1, step, step)
            self._items.append((item, size))
            self._bytes += size

    def take_if(self, wanted: Callable[[Item], bool]) -> Item | None:
        """Removes and returns the oldest item when it is wanted; None when it is not, or there is none."""
        with self._lock:
            if not self._items or not wanted(self._items[0][0]):
                return None
            item, size = self._items.popleft()
            self._bytes -= size
            return item

    def take(self, most: int) -> list[Item]:
        """Removes and returns the oldest items."""
        with self._lock:
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._bytes -= sum(size for _, size in taken)
        return [item for item, _ in taken]
