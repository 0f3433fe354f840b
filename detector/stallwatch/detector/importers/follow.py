"""Logs that are still being written: a text file or standard input line by line, anything else read anew when it has changed."""

from __future__ import annotations

import codecs
import os
import select
import stat
from pathlib import Path
from typing import IO

from stallwatch.detector.importers import LogSource, find_logs
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.console import logs_of
from stallwatch.detector.importers.errors import LogError
from stallwatch.detector.importers.kinds import Collector
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import head, run_name

_READ_BYTES = 1 << 20
_MOST_OPEN_LINE = 1 << 18
"""A progress bar may never end its line: from so many characters on it is cut."""


class _Text:
    """Bytes that come in pieces, as lines; what has no end yet waits."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""

    def lines(self, data: bytes, *, last: bool = False) -> list[str]:
        """The lines that are complete; with `last` also the one that is not."""
        text = self._rest + self._decoder.decode(data, final=last)
        found = text.split("\n")
        self._rest = found.pop()
        # Of a line that is drawn over, all but the last state is complete.
        at = self._rest.rfind("\r", 0, len(self._rest) - 1) + 1
        if not at and len(self._rest) > _MOST_OPEN_LINE:
            at = len(self._rest)
        if last:
            at = len(self._rest)
        if at:
            found.append(self._rest[:at])
            self._rest = self._rest[at:]
        return [line for line in found if line]


class FollowedStream:
    """Standard input, or another stream that cannot be read twice."""

    def __init__(self, stream: IO[bytes], name: str, selection: Selection) -> None:
        self._descriptor = stream.fileno()
        self._name = name
        self._text = _Text()
        self._collector = Collector(selection)
        self.ended = False

    def wait(self, seconds: float) -> bool:
        """Wait for new lines for at most so long; False when none came."""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return False
        data = os.read(self._descriptor, _READ_BYTES)
        self.ended = not data
        self._collector.feed(self._text.lines(data, last=not data))
        return True

    def read(self) -> list[TrainingLog]:
        """What has come so far; raises `LogError` while there is no loss in it."""
        return logs_of(self._collector, self._name, self._name, more_to_come=True)


class FollowedFile:
    """A text file that grows, is rotated (another file gets its name) or emptied."""

    ended = False

    def __init__(self, path: Path, selection: Selection) -> None:
        self._path = path
        self._text = _Text()
        self._collector = Collector(selection)
        self._file: IO[bytes] | None = None
        self.restarts = 0
        """How often the file was emptied or replaced."""

    def wait(self, seconds: float) -> bool:
        """Take what was written; False, after so long, when nothing was."""
        if self._take():
            return True
        select.select([], [], [], seconds)
        return self._take()

    def read(self) -> list[TrainingLog]:
        """What was written so far; raises `LogError` while there is no loss in it."""
        return logs_of(self._collector, run_name(self._path), str(self._path), more_to_come=True)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _take(self) -> bool:
        try:
            now = self._path.stat()
            if self._file is None:
                self._file = self._path.open("rb")
            held = os.fstat(self._file.fileno())
            if held.st_size < self._file.tell():
                # Emptied in place, as copytruncate does: what had no line end is gone with it.
                self._file.seek(0)
                self._begin_again()
            taken = self._pieces()
            if (held.st_ino, held.st_dev) != (now.st_ino, now.st_dev):
                self._file.close()
                self._file = self._path.open("rb")
                self._begin_again()
                taken = self._pieces() or taken
        except FileNotFoundError:
            # Between two files of one name there is none for a moment.
            return False
        except OSError as error:
            raise LogError(f"{self._path}: {error.strerror or error}") from None
        return taken

    def _begin_again(self) -> None:
        self._collector.feed(self._text.lines(b"", last=True))
        self._text = _Text()
        self.restarts += 1

    def _pieces(self) -> bool:
        assert self._file is not None
        taken = False
        while data := self._file.read(_READ_BYTES):
            self._collector.feed(self._text.lines(data.lstrip(b"\0") if not taken else data))
            taken = True
        return taken


class FollowedSource:
    """A table, records, a folder or event files: read anew when size or time of a file has changed."""

    ended = False

    def __init__(self, path: Path, selection: Selection) -> None:
        self._path = path
        self._selection = selection
        self._seen: tuple[tuple[str, int, int], ...] = ()

    def wait(self, seconds: float) -> bool:
        """Whether something has changed, now or after so long."""
        if self._changed():
            return True
        select.select([], [], [], seconds)
        return self._changed()

    def read(self) -> list[TrainingLog]:
        """All runs; raises `LogError` where there is none yet."""
        found: list[TrainingLog] = []
        problem: LogError | None = None
        for source in find_logs(self._path):
            try:
                found += source.read(self._selection)
            except LogError as error:  # noqa: PERF203  one file that is no log must not end the others
                problem = error
        if not found and problem is not None:
            raise problem
        return found

    def close(self) -> None:
        """Nothing is held."""

    def _changed(self) -> bool:
        files = self._path.rglob("*") if self._path.is_dir() else iter([self._path])
        seen = []
        for file in files:
            try:
                known = file.stat()
            except OSError:
                continue
            if stat.S_ISREG(known.st_mode):
                seen.append((str(file), known.st_size, known.st_mtime_ns))
        now = tuple(sorted(seen))
        changed, self._seen = now != self._seen, now
        return changed


def followed(path: Path, selection: Selection) -> FollowedFile | FollowedSource:
    """What the path is, by its beginning; raises `LogError` when nothing is there."""
    if not path.exists():
        raise LogError(f"{path}: no such file or folder")
    if path.is_dir():
        return FollowedSource(path, selection)
    try:
        kind = LogSource(path, named=True).format(head(path))
    except LogError:
        # Nothing is in it yet.
        kind = "console text"
    return FollowedFile(path, selection) if kind == "console text" else FollowedSource(path, selection)
