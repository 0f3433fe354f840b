"""What the targets of the importers share: a log file of some name is read, or refused with a `LogError`."""

from __future__ import annotations

import contextlib

from fuzz.files import filled
from stallwatch.detector.importers import LogError, LogSource, Selection


def read(name: str, data: bytes, selection: Selection | None = None) -> None:
    """Read as `stallwatch analyze` reads it, and touch what comes out."""
    source = LogSource(filled(name, data), named=True)
    with contextlib.suppress(LogError):
        for log in source.read(selection):
            points = log.points
            assert len(points.step) == len(points.loss), "a point has a place and a loss"
