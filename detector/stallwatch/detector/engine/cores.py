"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/cpu.max")
"""Of the control group, version 2, that a container is in: microseconds of all cores together, and of what time."""


def cores(limit: Path = CGROUP) -> int:
    """Those of the machine, or fewer where affinity or the limit of a container says so; 1 at least."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:
        # Not everywhere.
        found = os.cpu_count() or 1
    try:
        quota, period = limit.read_text(encoding="ascii").split()
        found = min(found, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        # No such limit, or "max".
        pass
    return max(1, found)
