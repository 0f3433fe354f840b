"""From the tables of earlier minor versions to today's: one function a version, all of them in one transaction."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, inspect, select, text, update

from stallwatch.detector.store import tables

_LOCK = 7_265_501_998_173_441
"""Any number that nobody else locks, for PostgreSQL."""


def lock(connection: Connection) -> None:
    """Wait until nobody else is at the tables: two detectors may start at once."""
    if connection.dialect.name == "sqlite":
        # The driver would begin a transaction at the first row that is written, which is after the first column is added.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})


def migrate(connection: Connection) -> None:
    """Bring the tables up to this minor version; those of a later one are left as they are."""
    minor = _minor(connection)
    for number in range(minor, tables.SCHEMA_MINOR):
        MIGRATIONS[number](connection)
    if minor < tables.SCHEMA_MINOR:
        connection.execute(update(tables.schema).values(minor=tables.SCHEMA_MINOR))


def _from_0(connection: Connection) -> None:
    """Minor version 1 numbers the minor versions, and notes the format of each snapshot."""
    connection.execute(text("ALTER TABLE stallwatch_schema ADD COLUMN minor INTEGER NOT NULL DEFAULT 0"))
    connection.execute(text("ALTER TABLE stallwatch_snapshots ADD COLUMN format INTEGER"))


MIGRATIONS: dict[int, Callable[[Connection], None]] = {0: _from_0}
"""By the minor version that they start from."""


def _minor(connection: Connection) -> int:
    columns = {column["name"] for column in inspect(connection).get_columns(tables.schema.name)}
    return connection.execute(select(tables.schema.c.minor)).scalar_one() if "minor" in columns else 0
