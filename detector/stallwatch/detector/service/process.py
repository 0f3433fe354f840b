"""What this process holds, as samples of catalogued metrics: growth without end shows here first."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from pathlib import Path

from stallwatch.detector.http.collector import Sample

_SELF = Path("/proc/self")


def process_samples() -> Iterator[Sample]:
    """Memory, files and threads where the system tells them (Linux), and the tasks of the running event loop."""
    try:
        pages = int((_SELF / "statm").read_text().split()[1])
        yield "stallwatch_detector_resident_bytes", pages * resource.getpagesize(), ()
        yield "stallwatch_detector_open_files", sum(1 for _ in (_SELF / "fd").iterdir()), ()
        yield "stallwatch_detector_threads", sum(1 for _ in (_SELF / "task").iterdir()), ()
    except OSError:
        pass
    try:
        tasks = len(asyncio.all_tasks())
    except RuntimeError:
        tasks = 0
    yield "stallwatch_detector_tasks", tasks, ()
