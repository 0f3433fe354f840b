"""Snapshots of a run's analysis: encode its whole state, decode it to go on exactly where it was.

The state consists of dataclasses of plain values and numpy arrays, so one generic codec serves all of it, checks of third
parties included. Each signal and check is stored under its name and decoded as the class that the present configuration
has under that name: one that is new starts afresh, one that is gone is ignored. Settings are not stored. Earlier formats are
migrated (`engine.migrations`).

Layout: magic, format (2 bytes), length of the body (8 bytes), SHA-256 of all of these and the body, then the body as msgpack. It
is that of every format from 3 on, so that a damaged snapshot is told from one of a newer version.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import fields
from functools import cache
from typing import Any

import msgspec
import numpy as np

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.ranks import SequenceLedger
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.analysis.state import RunState
from stallwatch.detector.engine.arrays import from_plain, to_plain
from stallwatch.detector.engine.migrations import FORMAT, MIGRATIONS, migrate

_MAGIC = b"STALLWATCH"
_HEADER = struct.Struct(f">{len(_MAGIC)}sHQ32s")
_DIGEST_BYTES = 32
_BODY_ONLY = 2
_CONFIG = "config"


class SnapshotError(ValueError):
    """The bytes are no snapshot that this version can read; the message says why."""


class NewerSnapshotError(SnapshotError):
    """The snapshot is whole, and of a version that is newer than this one: it is to be left as it is."""


class _Body(msgspec.Struct):
    state: RunState
    signals: dict[str, msgspec.Raw]
    checks: dict[str, msgspec.Raw]


class _Accepted(msgspec.Struct):
    ledger: SequenceLedger


class _AcceptedBody(msgspec.Struct):
    state: _Accepted


def encode(analysis: RunAnalysis) -> bytes:
    """The whole state of the analysis."""
    analysis.settle()
    pipeline = analysis.pipeline
    body = _ENCODER.encode(
        _Body(
            state=analysis.state,
            signals={name: msgspec.Raw(encode_part(part)) for name, part in pipeline.signals.items()},
            checks={name: msgspec.Raw(encode_part(part)) for name, part in pipeline.checks.items()},
        )
    )
    return _HEADER.pack(_MAGIC, FORMAT, len(body), _digest(FORMAT, body)) + body


def decode(data: bytes, config: AnalysisConfig | None = None) -> RunAnalysis:
    """An analysis that goes on exactly where the encoded one was.

    Raises:
        NewerSnapshotError: A newer version wrote it.
        SnapshotError: The data is torn, corrupt, of a format too old, or does not fit the classes of this version.
    """
    body = _body(data)
    try:
        parts = _DECODER.decode(body)
        analysis = RunAnalysis(parts.state.run, config)
        analysis.state = parts.state
        pipeline = analysis.pipeline
        for stored, live in ((parts.signals, pipeline.signals), (parts.checks, pipeline.checks)):
            _restore(stored, live)
        analysis.declare()
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError) as error:
        raise SnapshotError(f"snapshot does not fit this version: {error}") from error
    return analysis


def accepted(data: bytes) -> SequenceLedger:
    """Only which batches went into an encoded analysis: far faster than `decode`. The same errors."""
    try:
        return msgspec.msgpack.decode(_body(data), type=_AcceptedBody).state.ledger
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"snapshot does not fit this version: {error}") from error


def encode_part(part: object) -> bytes:
    """One signal or check, without its settings."""
    return _ENCODER.encode({name: getattr(part, name) for name in _stored_fields(type(part))})  # type: ignore[arg-type]  # types have a hash


def decode_part(data: bytes | msgspec.Raw, like: object) -> Any:
    """One signal or check of the class and with the settings of `like`."""
    part: Any = msgspec.msgpack.decode(data, type=type(like), dec_hook=_from_plain)
    config = getattr(like, _CONFIG, None)
    if config is not None:
        part.config = config
    return part


@cache
def _stored_fields(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name != _CONFIG)


def _body(data: bytes) -> bytes | memoryview:
    """The body, whole and of today's format."""
    if len(data) < _HEADER.size:
        raise SnapshotError(f"a snapshot has at least {_HEADER.size} bytes, this has {len(data)}")
    magic, version, length, digest = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise SnapshotError("not a snapshot: it does not begin with the right bytes")
    body = memoryview(data)[_HEADER.size :]
    if len(body) != length:
        raise SnapshotError(f"torn snapshot: {len(body)} of {length} bytes are there")
    if _digest(version, body) != digest:
        raise SnapshotError("corrupt snapshot: its checksum does not match")
    if version == FORMAT:
        return body
    if version > FORMAT:
        raise NewerSnapshotError(
            f"snapshot of format {version}, which a newer version wrote; this version reads format {FORMAT} and before"
        )
    if version not in MIGRATIONS:
        raise SnapshotError(
            f"snapshot of format {version}; this version reads format {min(MIGRATIONS)} to {FORMAT}"
        )
    try:
        return _ENCODER.encode(migrate(msgspec.msgpack.decode(body), version))
    except (msgspec.MsgspecError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise SnapshotError(f"snapshot of format {version} cannot be migrated: {error!r}") from error


def _digest(version: int, body: bytes | memoryview) -> bytes:
    """The checksum; in format 2 it left out the header."""
    header = b"" if version <= _BODY_ONLY else _HEADER.pack(_MAGIC, version, len(body), b"")[:-_DIGEST_BYTES]
    checksum = hashlib.sha256(header)
    checksum.update(body)
    return checksum.digest()


def _restore(stored: dict[str, msgspec.Raw], live: dict[str, Any]) -> None:
    for name, fresh in live.items():
        if name in stored:
            live[name] = decode_part(stored[name], fresh)


def _to_plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return to_plain(value)
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"state holds a {type(value).__name__}, which no snapshot can hold")


def _from_plain(wanted: type, value: Any) -> object:
    if getattr(wanted, "__origin__", wanted) is not np.ndarray:
        raise NotImplementedError(f"state holds a {wanted}, which no snapshot can hold")
    return from_plain(value).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_DECODER = msgspec.msgpack.Decoder(_Body, dec_hook=_from_plain)
