"""Changing a tokens file: entries are added and taken away, and what else stands in it stays as it is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from stallwatch.detector.auth.access import LIMITS
from stallwatch.detector.auth.tokens import TokenEntry, Tokens, parse
from stallwatch.detector.errors import UsageError

_TABLE = re.compile(r"^[ \t]*\[\[[ \t]*token[ \t]*\]\]", re.MULTILINE)
_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)
NEW_MODE = 0o600


def read(path: Path) -> Tokens:
    """The tokens of a file; `UsageError` when it cannot be read or is not valid."""
    return parse(content_of(path), path)


def content_of(path: Path) -> bytes:
    """What stands in it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"tokens file {path} cannot be read: {error.strerror}") from None


def add(path: Path, entry: TokenEntry) -> None:
    """Append an entry; the file is made when it is not there."""
    with _locked(path):
        text = content_of(path).decode() if path.exists() else ""
        if any(known.name == entry.name for known in parse(text.encode(), path).entries):
            raise UsageError(
                f"{path} has a token {entry.name} already: revoke it first, or choose another name"
            )
        separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        text += separator + _toml(entry)
        # What could not be read again would lock out everybody.
        parse(text.encode(), path)
        _write(path, text)


def remove(path: Path, name: str) -> None:
    """Take the entry of a name out."""
    with _locked(path):
        text = content_of(path).decode()
        entries = parse(text.encode(), path).entries
        if all(entry.name != name for entry in entries):
            known = ", ".join(entry.name for entry in entries) or "none"
            raise UsageError(f"{path} has no token {name}: it has {known}")
        left = tuple(entry for entry in entries if entry.name != name)
        _write(path, _without(text, entries, name, left, path))


def _without(
    text: str, entries: tuple[TokenEntry, ...], name: str, left: tuple[TokenEntry, ...], path: Path
) -> str:
    """The text without one table. Whether it is the right one is checked by reading the result."""
    starts = [match.start() for match in _TABLE.finditer(text)]
    if len(starts) == len(entries):
        start = starts[next(index for index, entry in enumerate(entries) if entry.name == name)]
        following = _HEADER.search(text, text.index("]]", start))
        result = text[:start] + (text[following.start() :] if following else "")
        with contextlib.suppress(UsageError):
            if parse(result.encode(), path).entries == left:
                return result.rstrip() + "\n" if result.strip() else ""
    raise UsageError(
        f"{path} is written in a way that only its author can change: take token {name} out by hand"
    )


def _toml(entry: TokenEntry) -> str:
    # A JSON string is a TOML string.
    lines = [
        "[[token]]",
        f"name = {json.dumps(entry.name)}",
        f"hash = {json.dumps(entry.hash)}",
        f"scopes = {json.dumps([scope.value for scope in entry.scopes])}",
        f"runs = {json.dumps(entry.runs, ensure_ascii=False)}",
    ]
    if isinstance(entry.expires, datetime):
        lines.append(f"expires = {entry.expires.astimezone(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')}")
    limits = {name: getattr(entry, name) for name in LIMITS}
    lines += [f"{name} = {value}" for name, value in limits.items() if value is not None]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One change at a time: the folder is locked, since the file itself is replaced."""
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"there is no folder for {path}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for its owner only; one that was there keeps its owner and what its group may."""
    real = path.resolve()
    temporary: Path | None = None
    try:
        before = real.stat() if real.exists() else None
        handle, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            with contextlib.suppress(PermissionError):
                os.chown(temporary, before.st_uid, before.st_gid)
        temporary.chmod(NEW_MODE if before is None else before.st_mode & 0o770)
        temporary.replace(real)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UsageError(f"tokens file {path} cannot be written: {error.strerror}") from None
