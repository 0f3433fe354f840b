"""How long a thread was ready to run and waited for a CPU: what tells a slow rank from a crowded machine."""

from __future__ import annotations

import math
from pathlib import Path


class CpuWait:
    """Reads the kernel's count for one thread of this process, from any thread."""

    def __init__(self, native_id: int) -> None:
        self._path = Path(f"/proc/self/task/{native_id}/schedstat")

    def seconds(self) -> float:
        """Seconds since the thread began; NaN where the kernel does not tell."""
        try:
            ran, waited, _slices = self._path.read_bytes().split()
            # A thread that has never run did not ask for this: the kernel only pretends to count.
            return int(waited) / 1e9 if int(ran) else math.nan
        except (OSError, ValueError):
            return math.nan
