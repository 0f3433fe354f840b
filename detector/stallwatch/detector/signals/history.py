"""A series of any length in a bounded number of blocks: fine for the recent past, coarser the older it is.

Level `i` keeps the last `capacity` blocks of `2**i` steps each, as the sums (weight, weight * value, weight * step). Blocks
are keyed by step, so late, repeated and missing points need no special care: a point adds to its block whenever it comes.
A block is carried into the next level when the series moves past it, which makes an update O(1) amortised; levels are
added as the series grows, so that the coarsest one always covers all of it: O(capacity * log2(steps / capacity)) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_WEIGHT, _VALUE, _STEP = 0, 1, 2


@dataclass(slots=True)
class BlockHistory:
    """Additive dyadic block sums of one series, keyed by step.

    It serves any scalar series. With the default capacity 10 million points take 28 KiB.
    """

    capacity: int = 64
    """Blocks kept per level; even, at least 8."""
    first: int = -1
    """The earliest step seen; -1 before the first point."""
    last: int = -1
    """The latest step seen."""
    count: int = 0
    """Points taken."""
    levels: list[Floats] = field(default_factory=list)
    """Ring buffers of block sums, one per level, each of shape (capacity, 3)."""

    def __post_init__(self) -> None:
        if self.capacity < 8 or self.capacity % 2:
            raise ValueError(f"capacity must be even and at least 8, not {self.capacity}")

    def add(self, step: int, value: float, weight: float = 1.0) -> None:
        """Take one finite point; a step before the oldest block that a level still holds reaches the coarser levels only."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        self.count += 1
        if self.last < 0:
            self.first = self.last = step
            self.levels.append(np.zeros((self.capacity, 3)))
        elif step > self.last:
            self._advance(step)
        elif step < self.first:
            self._grow(step, self.last)
            self.first = step
        self._accumulate(step, weight, weight * value, weight * step)

    def _accumulate(self, step: int, weight: float, value: float, position: float) -> None:
        """Add to the blocks of the step that are closed, and to the first one that is still open."""
        for level, ring in enumerate(self.levels):
            block, head = step >> level, self.last >> level
            if head - block < self.capacity:
                row = ring[block % self.capacity]
                row[_WEIGHT] += weight
                row[_VALUE] += value
                row[_STEP] += position
            if block == head:
                return

    def _grow(self, first: int, last: int) -> None:
        """Add levels until the coarsest one holds every block of [first, last]."""
        while (last >> (len(self.levels) - 1)) - (first >> (len(self.levels) - 1)) >= self.capacity:
            below = len(self.levels) - 1
            ring, head = self.levels[below], self.last >> below
            merged = np.zeros((self.capacity, 3))
            # The open block is carried when it closes, like every block that this level will see.
            for block in range(self.first >> below, head):
                merged[(block >> 1) % self.capacity] += ring[block % self.capacity]
            self.levels.append(merged)

    def _advance(self, step: int) -> None:
        """Close the blocks that the series moves past: carry each into its parent and clear the slots ahead."""
        self._grow(self.first, step)
        for level, ring in enumerate(self.levels):
            head, block = self.last >> level, step >> level
            if head == block:
                break
            if level + 1 < len(self.levels):
                self.levels[level + 1][(head >> 1) % self.capacity] += ring[head % self.capacity]
            if block - head >= self.capacity:
                ring[:] = 0.0
            else:
                for ahead in range(head + 1, block + 1):
                    ring[ahead % self.capacity] = 0.0
        self.last = step

    def level_for(self, span: int, blocks: int) -> int:
        """The finest level at which a span of so many steps takes at most `blocks` blocks."""
        level = 0
        while level + 1 < len(self.levels) and span > blocks << level:
            level += 1
        return level

    def blocks(self, level: int, start: int, stop: int) -> Floats:
        """Blocks of a level that lie within steps [start, stop) and hold points.

        Returns:
            Rows (mean step, mean value, weight), ascending in step, shape (blocks, 3). A block that reaches beyond the
            latest step counts as ending there.
        """
        if not self.levels or stop <= start:
            return np.zeros((0, 3))
        size, head = 1 << level, self.last >> level
        low = max(-(-start // size), head - self.capacity + 1, self.first >> level)
        if start <= self.first:
            low = max(self.first >> level, head - self.capacity + 1)
        high = head if stop > self.last else min((stop // size) - 1, head)
        if high < low:
            return np.zeros((0, 3))
        rows = self.levels[level][np.arange(low, high + 1) % self.capacity]
        if high == head:
            rows[-1] += self._pending(level)
        rows = rows[rows[:, _WEIGHT] > 0]
        weight = rows[:, _WEIGHT]
        return np.column_stack((rows[:, _STEP] / weight, rows[:, _VALUE] / weight, weight))

    def _pending(self, level: int) -> Floats:
        """What the open block of a level has not been given yet: the open blocks of the finer levels."""
        pending = np.zeros(3)
        for finer in range(level):
            pending += self.levels[finer][(self.last >> finer) % self.capacity]
        return pending

    def query(self, from_step: int, to_step: int, points: int) -> list[tuple[int, float, float]]:
        """At most `points` block means (mean step, mean value, weight) within [from_step, to_step], as fine as is kept."""
        if not self.levels or points < 1:
            return []
        start, stop = max(from_step, self.first), min(to_step, self.last) + 1
        # Each level reaches `capacity` blocks back: start with the finest and fill what lies before it from coarser ones.
        level = self.level_for(max(stop - start, 1), max(points // 2, 1))
        parts: list[Floats] = []
        end = stop
        for current in range(level, len(self.levels)):
            oldest = max(0, (self.last >> current) - self.capacity + 1) << current
            # Meet the next level at a boundary that both share.
            oldest += -oldest % (2 << current)
            begin = start if oldest <= start or current == len(self.levels) - 1 else oldest
            if begin < end:
                parts.append(self.blocks(current, begin, end))
                end = begin
            if begin <= start:
                break
        rows = np.concatenate(parts[::-1]) if parts else np.zeros((0, 3))
        if len(rows) > points:
            rows = _merge(rows, points)
        return [(round(float(step)), float(value), float(weight)) for step, value, weight in rows]


def _merge(rows: Floats, points: int) -> Floats:
    """Pool neighbours into at most `points` rows, weighted."""
    edges = np.linspace(0, len(rows), points + 1).astype(int)[:-1]
    edges = np.unique(edges)
    weight = np.add.reduceat(rows[:, 2], edges)
    step = np.add.reduceat(rows[:, 0] * rows[:, 2], edges) / weight
    value = np.add.reduceat(rows[:, 1] * rows[:, 2], edges) / weight
    return np.column_stack((step, value, weight))
