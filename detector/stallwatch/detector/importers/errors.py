"""What the importers say when a log cannot be read."""

from __future__ import annotations

from stallwatch.detector.errors import StallwatchError


class LogError(StallwatchError):
    """A log that cannot be read; the message is one sentence that names the file and, where it helps, row and column."""


class NotALogError(LogError):
    """A file that holds no training log at all: an error when it was named, passed over when it lay in a folder."""
