"""Stores as an analyzer may find them: written by the version before, or with a damaged snapshot."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import struct
from pathlib import Path

import msgspec

from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.migrations import FORMAT
from support.snapshots import sealed

_BODY = 52


def as_last_minor_version(path: Path) -> None:
    """Rewrite a store without gaps as the version before would have left it."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        columns = {row[1] for row in database.execute("PRAGMA table_info(stallwatch_snapshots)")}
        for number, data in database.execute(
            "SELECT id, data FROM stallwatch_snapshots WHERE NOT damaged"
        ).fetchall():
            database.execute(
                "UPDATE stallwatch_snapshots SET data=? WHERE id=?", (as_format_before(data), number)
            )
        if "format" in columns:
            database.execute("ALTER TABLE stallwatch_snapshots DROP COLUMN format")
            database.execute("ALTER TABLE stallwatch_schema DROP COLUMN minor")


def as_format_before(data: bytes) -> bytes:
    """A snapshot of an analysis without gaps in the format before."""
    try:
        snapshot.accepted(data)
    except snapshot.SnapshotError:
        # A damaged one stays damaged.
        return data
    if struct.unpack_from(">H", data, 10)[0] < FORMAT:
        return data
    body = msgspec.msgpack.decode(data[_BODY:])
    gaps = body["state"].pop("gaps")
    assert not gaps["gaps"], gaps
    for name in ("next_step", "rejected_steps"):
        del body["state"]["ranks"][name]
    return sealed(FORMAT - 1, msgspec.msgpack.encode(body))


def spoil_newest(path: Path, rng: random.Random) -> bool:
    """Tear or flip bits in the newest snapshot, if there is one before it."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        rows = database.execute(
            "SELECT id, data FROM stallwatch_snapshots WHERE NOT damaged ORDER BY id DESC"
        ).fetchall()
        if len(rows) < 2:
            return False
        number, data = rows[0]
        spoiled = bytearray(data)
        if rng.random() < 0.5:
            spoiled = spoiled[: rng.randrange(len(spoiled))]
        else:
            spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
        database.execute("UPDATE stallwatch_snapshots SET data=? WHERE id=?", (bytes(spoiled), number))
        return True
