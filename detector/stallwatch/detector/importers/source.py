"""Opening log files: compressed or not, counted for the progress bar, with errors that name the file."""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from stallwatch.detector.importers.errors import LogError, NotALogError

Progress = Callable[[int], None]
"""Is told how many more bytes of a file were read."""

COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", ".zip", ".zst"})
_HEAD_BYTES = 65_536
# A few bytes that are no text do not make a log something else: a rank that was killed, a name in another encoding.
_MOST_STRANGE = 0.02
_MOST_ZEROS = 0.1
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

    def __init__(self, path: Path, inner: IO[bytes], most: int) -> None:
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


class _Recoded(io.RawIOBase):
    """UTF-16 as UTF-8, for readers that know nothing else."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self._decoder = codecs.getincrementaldecoder("utf-16")("replace")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed asks for any buffer
        while not self._rest:
            data = self._inner.read(_HEAD_BYTES)
            self._rest = self._decoder.decode(data, final=not data).encode()
            if not data:
                break
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _expanded(path: Path, stream: IO[bytes]) -> IO[bytes] | None:
    """The data decompressed, by what the file itself begins with; None where it is not compressed."""
    start = stream.peek(6)[:6]  # type: ignore[attr-defined]  # a BufferedReader, which typing calls IO
    if start.startswith(b"\x1f\x8b") or path.suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(stream))
    if start == b"\xfd7zXZ\0":
        return cast("IO[bytes]", lzma.LZMAFile(stream))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(path, stream)
    if start.startswith(b"PK\x03\x04"):
        archive = zipfile.ZipFile(path)
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1:
            raise LogError(f"{path}: the archive holds {len(members)} files: unpack it and give the folder")
        return archive.open(members[0])
    return None


def _zstd(path: Path, stream: IO[bytes]) -> IO[bytes]:
    """Python has a reader from 3.14 on; before that the package zstandard is asked for."""
    for module, opener in (("compression.zstd", "ZstdFile"), ("zstandard", "open")):
        try:
            found: Any = getattr(importlib.import_module(module), opener)
        except ImportError:
            continue
        return cast("IO[bytes]", found(stream))
    raise LogError(f"{path}: reading .zst needs Python 3.14, or: pip install zstandard")


@contextmanager
def opened(path: Path, progress: Progress = no_progress) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed and as UTF-8.

    Errors of the system, the encoding or the compression become a `LogError`.
    """
    try:
        with path.open("rb") as file:
            stream = cast("IO[bytes]", io.BufferedReader(_Counted(file, progress), _HEAD_BYTES))
            expanded = _expanded(path, stream)
            if expanded is not None:
                most = max(_EXPANDED_BYTES, _EXPANSION * path.stat().st_size)
                stream = cast("IO[bytes]", io.BufferedReader(_Limited(path, expanded, most), _HEAD_BYTES))
            if stream.peek(2)[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:  # type: ignore[attr-defined]  # as above
                stream = cast("IO[bytes]", io.BufferedReader(_Recoded(stream), _HEAD_BYTES))
            yield stream
    except UnicodeDecodeError:
        raise NotALogError(f"{path}: the file is not UTF-8 text") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError):
        raise LogError(f"{path}: the compressed data is damaged or cut off") from None
    except OSError as error:
        # bz2 has no error of its own.
        damaged = path.suffix.lower() == ".bz2" and error.errno is None
        said = "the compressed data is damaged or cut off" if damaged else error.strerror or error
        raise LogError(f"{path}: {said}") from None


def head(path: Path) -> str:
    """The file's beginning as text; raises `NotALogError` for an empty or a binary file."""
    with opened(path) as stream:
        data = stream.read(_HEAD_BYTES)
    # A log that was emptied while it was written to begins with zeros.
    data = data.lstrip(b"\0")
    if not data.strip():
        raise NotALogError(f"{path}: the file is empty")
    text = data.decode("utf-8-sig", "replace")
    # The head may end in the middle of a character.
    strange = text[:-4].count("\ufffd")
    if data.count(b"\0") and (strange or data.count(b"\0") > _MOST_ZEROS * len(data)):
        raise NotALogError(f"{path}: a binary file of a kind that is not a known training log")
    if strange > _MOST_STRANGE * len(text):
        raise NotALogError(f"{path}: the file is not UTF-8 text")
    return text


def plain_name(path: Path) -> str:
    """The name without the ending of a compression."""
    return path.name.removesuffix(path.suffix) if path.suffix.lower() in COMPRESSIONS else path.name


def plain_suffix(path: Path) -> str:
    """The suffix without that of a compression, in lower case."""
    return Path(plain_name(path)).suffix.lower()


def run_name(path: Path) -> str:
    """What to call the run: the file's name, or its folder's where every run calls its file the same."""
    name = plain_name(path)
    stem = name.rpartition(".")[0] or name
    folder = path.absolute().parent.name
    return folder if stem.lower() in _COMMON_NAMES and folder else stem
