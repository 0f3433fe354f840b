"""A recording of what a run's analyzer was fed: length-delimited `AnalyzerInput`s, in the order in which they were applied."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from google.protobuf.message import DecodeError

from stallwatch.detector.errors import StallwatchError
from stallwatch.v1 import analyzer_pb2

SUFFIX = ".stallwatch"

log = logging.getLogger(__name__)


class RecordingError(StallwatchError):
    """A recording cannot be read."""


def recording_path(directory: Path, run: str) -> Path:
    """Where the recording of a run is: the run's name with what a file name may not hold escaped."""
    return directory / (quote(run, safe="") + SUFFIX)


class Recorder:
    """Appends to the recording of one run."""

    def __init__(self, directory: Path, run: str, resume_at: int | None, *, restored: bool) -> None:
        """Go on at byte `resume_at`, where the recording ended when the restored snapshot was taken.

        What was recorded after that was lost with the analyzer's memory, and is sent and recorded again.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.path = recording_path(directory, run)
        if restored and (resume_at is None or not self.path.exists() or self.path.stat().st_size < resume_at):
            log.warning(
                "the recording %s begins in the middle of the run: it was not recorded before", self.path
            )
            resume_at = None
        self._file: BinaryIO = self.path.open("r+b") if resume_at else self.path.open("wb")
        if resume_at:
            self._file.truncate(resume_at)
            self._file.seek(resume_at)

    def write(self, item: bytes) -> None:
        """Append one serialized input."""
        self._file.write(_length_prefix(len(item)))
        self._file.write(item)

    def flush(self) -> int:
        """Hand everything to the operating system; return the length of the recording in bytes."""
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def read_recording(path: Path) -> Iterator[analyzer_pb2.AnalyzerInput]:
    """The inputs of a recording, in order. A torn end, of a recorder that was killed, is left out."""
    with path.open("rb") as file:
        size = path.stat().st_size
        while (length := _read_length(file, path)) is not None:
            # Asked before memory is taken for it: a damaged length may be anything.
            if length > size - file.tell():
                return
            data = file.read(length)
            try:
                yield analyzer_pb2.AnalyzerInput.FromString(data)
            except DecodeError as error:
                raise RecordingError(f"{path} is damaged before byte {file.tell()}: {error}") from error


def _length_prefix(length: int) -> bytes:
    prefix = bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def _read_length(file: BinaryIO, path: Path) -> int | None:
    length = shift = 0
    while byte := file.read(1):
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return length
        shift += 7
        if shift > 35:
            raise RecordingError(
                f"{path} is no recording of stallwatch: a length at byte {file.tell()} is too large"
            )
    return None
