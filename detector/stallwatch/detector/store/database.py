"""The store: SQLite by default, PostgreSQL by URL. Every change of a run is one transaction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RunView
from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import migrations, tables
from stallwatch.detector.store.codec import decode_finding, decode_view, encode_finding, encode_view
from stallwatch.detector.store.sqlite_file import SqliteFile

SNAPSHOTS_KEPT = 2
"""The last one, and one more for when the last one turns out to be damaged."""
OTHERS_KEPT = 1
"""Of each other format, from the one before on: for a version that somebody goes back to, or forward again."""
ANY_FORMAT = 1 << 15
DAMAGED_KEPT = 4
"""For whoever wants to know why."""
BUSY_SECONDS = 30.0
"""How long a writer waits for another process's transaction."""


def sqlite_url(directory: Path) -> str:
    """Where the store is when no URL is given."""
    return f"sqlite:///{directory.resolve() / 'stallwatch.db'}"


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """One snapshot of a run's analysis."""

    id: int
    run: str
    taken_at: float
    data: bytes
    recording_bytes: int | None


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What is known of a run without reading its snapshot."""

    run: str
    state: str
    updated_at: float
    view: RunView


_FORMAT = func.coalesce(tables.snapshots.c.format, tables.FIRST_FORMAT)


class Store:
    """Reads and writes; safe to use from several threads and processes."""

    def __init__(self, url: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        """`busy_seconds` is how long to wait for another process's transaction, or for a server to answer."""
        self.url = url
        self._engine = _engine(url, busy_seconds)
        self._file = SqliteFile(self._engine) if self.is_local else None

    def prepare(self) -> None:
        """Create the tables, or bring them up to this version: all of it or nothing. `StoreError` when they are of another one."""
        try:
            if self._file is not None:
                self._file.may_be_new = True
            with self._engine.begin() as connection:
                migrations.lock(connection)
                is_new = not inspect(connection).has_table(tables.schema.name)
                if not is_new:
                    self._check_version(connection)
                # Tables that came later are added to a store that lacks them; versions before leave them alone.
                tables.metadata.create_all(connection)
                if is_new:
                    connection.execute(
                        insert(tables.schema).values(version=tables.SCHEMA_VERSION, minor=tables.SCHEMA_MINOR)
                    )
                migrations.migrate(connection)
        except SQLAlchemyError as error:
            raise StoreError(f"cannot open the store {self.shown_url}: {_first_line(error)}") from error

    @property
    def is_local(self) -> bool:
        """Whether only processes on this machine reach it."""
        return self._engine.dialect.name == "sqlite"

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def save(
        self,
        view: RunView,
        data: bytes,
        findings: Iterable[Finding],
        *,
        taken_at: float,
        recording_bytes: int | None = None,
        snapshot_format: int = tables.FIRST_FORMAT,
    ) -> None:
        """Write a run's snapshot, its view and its changed findings: all of them or none."""
        try:
            with self._engine.begin() as connection:
                row = {"state": view.state, "updated_at": view.updated_at, "view": encode_view(view)}
                self._upsert(connection, tables.runs, {"run": view.run}, row)
                connection.execute(
                    insert(tables.snapshots).values(
                        run=view.run,
                        taken_at=taken_at,
                        data=data,
                        recording_bytes=recording_bytes,
                        damaged=False,
                        format=snapshot_format,
                    )
                )
                _forget_old(connection, view.run, snapshot_format)
                for finding in findings:
                    self._upsert(connection, tables.findings, {"id": finding.id}, _finding_row(finding))
        except SQLAlchemyError as error:
            raise StoreError(f"cannot write to {self.shown_url}: {_first_line(error)}") from error

    def snapshots(self, run: str, newest_format: int = ANY_FORMAT) -> list[StoredSnapshot]:
        """The usable snapshots of a run of formats up to `newest_format`, the newest first."""
        columns = tables.snapshots.c
        query = (
            select(columns.id, columns.taken_at, columns.data, columns.recording_bytes)
            .where(columns.run == run, columns.damaged.is_(False), newest_format >= _FORMAT)
            .order_by(columns.id.desc())
        )
        return [
            StoredSnapshot(row.id, run, row.taken_at, row.data, row.recording_bytes)
            for row in self._rows(query)
        ]

    def snapshots_after(self, run: str, newest_format: int) -> int:
        """How many snapshots of a run are of a later format, which a newer version wrote."""
        columns = tables.snapshots.c
        query = select(columns.id).where(
            columns.run == run, columns.damaged.is_(False), newest_format < _FORMAT
        )
        return len(self._rows(query))

    def set_aside(self, snapshot: StoredSnapshot) -> None:
        """Mark a snapshot that could not be read, so that it is not tried again."""
        with self.transaction() as connection:
            columns = tables.snapshots.c
            connection.execute(update(tables.snapshots).where(columns.id == snapshot.id).values(damaged=True))

    def runs(self, most: int | None = None) -> list[StoredRun]:
        """Every run there has been, or the latest `most`, the latest first. One whose view is of another version is left out."""
        query = select(tables.runs).order_by(tables.runs.c.updated_at.desc()).limit(most)
        return [stored for row in self._rows(query) if (stored := _stored_run(row)) is not None]

    def run(self, name: str) -> StoredRun | None:
        """One run, or None when there is none of that name."""
        rows = self._rows(select(tables.runs).where(tables.runs.c.run == name))
        return _stored_run(rows[0]) if rows else None

    def findings(self, run: str) -> list[Finding]:
        """Every finding of a run, in the order in which they were opened."""
        columns = tables.findings.c
        query = select(columns.body).where(columns.run == run).order_by(columns.opened_at, columns.id)
        return [decode_finding(row.body) for row in self._rows(query)]

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction; `StoreError` when it cannot be written."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"cannot write to {self.shown_url}: {_first_line(error)}") from error

    def rows(self, query: Any) -> list[Any]:
        """What a query finds; `StoreError` when it cannot be read."""
        return self._rows(query)

    def upsert(self, connection: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> None:
        """Add a row, or change the one that has this key."""
        self._upsert(connection, table, key, values)

    def add(self, connection: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> bool:
        """Add a row unless there is one with this key; whether it was added."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(**key, **values)
        # Not by the count of rows, which not every driver tells of an insert.
        added = statement.on_conflict_do_nothing(index_elements=list(key)).returning(table.c[next(iter(key))])
        return connection.execute(added).first() is not None

    def check(self) -> None:
        """Raise `StoreError` unless the store can be read and written now."""
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    update(tables.schema)
                    .where(tables.schema.c.version == tables.SCHEMA_VERSION)
                    .values(version=tables.SCHEMA_VERSION)
                )
        except SQLAlchemyError as error:
            raise StoreError(f"cannot write to {self.shown_url}: {_first_line(error)}") from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _rows(self, query: Any) -> list[Any]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query))
        except SQLAlchemyError as error:
            raise StoreError(f"cannot read from {self.shown_url}: {_first_line(error)}") from error

    def _upsert(
        self, connection: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]
    ) -> None:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(**key, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))

    def _check_version(self, connection: Connection) -> None:
        version = connection.execute(select(tables.schema.c.version)).scalar_one()
        if version != tables.SCHEMA_VERSION:
            raise StoreError(
                f"the store {self.shown_url} has schema version {version}, and this is for version "
                f"{tables.SCHEMA_VERSION}: use the version of stallwatch that wrote it, or another --data-dir"
            )


def _forget_old(connection: Connection, run: str, written: int) -> None:
    """Delete snapshots that nobody will need: see `SNAPSHOTS_KEPT`, `OTHERS_KEPT` and `DAMAGED_KEPT`."""
    columns = tables.snapshots.c
    query = select(columns.id, columns.damaged, _FORMAT.label("format"))
    kept: Counter[tuple[bool, int]] = Counter()
    gone = []
    for row in connection.execute(query.where(columns.run == run).order_by(columns.id.desc())):
        key = (True, 0) if row.damaged else (False, row.format)
        most = DAMAGED_KEPT if row.damaged else SNAPSHOTS_KEPT if row.format == written else OTHERS_KEPT
        if not row.damaged and row.format < written - 1:
            most = 0
        kept[key] += 1
        if kept[key] > most:
            gone.append(row.id)
    if gone:
        connection.execute(delete(tables.snapshots).where(columns.id.in_(gone)))


def _engine(url: str, busy_seconds: float) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args=_connect_arguments(url, busy_seconds))
    # A port that is no number is a bare ValueError.
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise StoreError(
            f"the store URL is not usable ({error}): it is sqlite:///PATH, or postgresql+psycopg://USER@HOST/NAME "
            "with stallwatch[postgresql] installed"
        ) from error
    if engine.dialect.name not in {"sqlite", "postgresql"}:
        raise StoreError(f"the store may be SQLite or PostgreSQL, not {engine.dialect.name}")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _connect_arguments(url: str, busy_seconds: float) -> dict[str, Any]:
    if make_url(url).get_backend_name() != "postgresql":
        return {"timeout": busy_seconds}
    # A server whose machine is gone answers nothing: without these it would be waited for for a quarter of an hour.
    return {
        "connect_timeout": max(2, math.ceil(busy_seconds)),
        "tcp_user_timeout": int(1000 * max(2.0, busy_seconds)),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # An agent forgets what it was told is safe on disk: that must be true after a power cut too.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _finding_row(finding: Finding) -> dict[str, Any]:
    return {
        "run": finding.run,
        "kind": finding.kind,
        "severity": finding.severity,
        "status": finding.status,
        "opened_at": finding.opened_at,
        "resolved_at": finding.resolved_at,
        "body": encode_finding(finding),
    }


def _stored_run(row: Any) -> StoredRun | None:
    try:
        return StoredRun(row.run, row.state, row.updated_at, decode_view(row.view))
    except msgspec.DecodeError:
        return None


def _first_line(error: SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).splitlines()[0] if str(cause) else type(error).__name__
