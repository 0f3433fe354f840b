"""Opening log files: compressed or not, counted for the progress bar, with errors that name the file."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from stallwatch.detector.importers.errors import LogError, NotALogError

Progress = Callable[[int], None]
"""Is told how many more bytes of a file were read."""

_HEAD_BYTES = 65_536
_EXPANDED_BYTES = 256 * 1024 * 1024
_EXPANSION = 100
"""A compressed log may always grow to the first, and to the second times its size. Logs of numbers grow five- to thirtyfold."""
# Names that say what a file is, not which run it is of: the folder says that.
_COMMON_NAMES = frozenset(
    {"metrics", "trainer_state", "history", "log", "logs", "train", "training", "results", "output"}
)


def no_progress(read_bytes: int) -> None:
    """Tells nobody."""


class _Counted(io.RawIOBase):
    """A binary file that reports how much of it was read."""

    def __init__(self, inner: IO[bytes], progress: Progress) -> None:
        self._inner = inner
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed asks for any buffer
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        self._progress(len(data))
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Limited(io.RawIOBase):
    """Decompressed data that must not become more than so many bytes: a small file can hold a disk full of one letter."""

    def __init__(self, path: Path, inner: gzip.GzipFile, most: int) -> None:
        self._path = path
        self._inner = inner
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed asks for any buffer
        data = self._inner.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise LogError(
                f"{self._path}: it grows to more than {_EXPANSION} times its size, as no training log does: decompress it first"
            )
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(path: Path, progress: Progress = no_progress) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed; errors of the system, the encoding or the compression become a `LogError`."""
    try:
        with path.open("rb") as file:
            counted = io.BufferedReader(_Counted(file, progress), _HEAD_BYTES)
            if path.suffix != ".gz":
                yield cast("IO[bytes]", counted)
                return
            most = max(_EXPANDED_BYTES, _EXPANSION * path.stat().st_size)
            with gzip.GzipFile(fileobj=counted) as expanded:
                yield cast("IO[bytes]", io.BufferedReader(_Limited(path, expanded, most), _HEAD_BYTES))
    except UnicodeDecodeError:
        raise NotALogError(f"{path}: the file is not UTF-8 text") from None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise LogError(f"{path}: the compressed data is damaged or cut off") from None
    except OSError as error:
        raise LogError(f"{path}: {error.strerror or error}") from None


def head(path: Path) -> str:
    """The file's beginning as text; raises `NotALogError` for an empty or a binary file."""
    with opened(path) as stream:
        data = stream.read(_HEAD_BYTES)
    if not data.strip():
        raise NotALogError(f"{path}: the file is empty")
    if b"\0" in data:
        raise NotALogError(f"{path}: a binary file of a kind that is not a known training log")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The head may end in the middle of a character.
        if error.start < len(data) - 4:
            raise NotALogError(f"{path}: the file is not UTF-8 text") from None
        return data[: error.start].decode("utf-8-sig")


def plain_suffix(path: Path) -> str:
    """The suffix without `.gz`, in lower case."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def run_name(path: Path) -> str:
    """What to call the run: the file's name, or its folder's where every run calls its file the same."""
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    folder = path.absolute().parent.name
    return folder if stem.lower() in _COMMON_NAMES and folder else stem
