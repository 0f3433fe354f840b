"""A file in memory that a target fills anew for each input."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def _folder() -> Path:
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    folder = Path(tempfile.mkdtemp(prefix="stallwatch-fuzz-", dir=memory if usable else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def filled(name: str, data: bytes) -> Path:
    """The file of that name with this content."""
    path = _folder() / name
    path.write_bytes(data)
    return path
