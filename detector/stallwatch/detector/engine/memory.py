"""What a process holds in memory, as Linux counts it."""

from __future__ import annotations

import os
from pathlib import Path


def resident_bytes() -> int:
    """Of this process, in bytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
