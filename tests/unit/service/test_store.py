"""The store: atomic, bounded, and plain about what it cannot do."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store, sqlite_url
from support.analyzer_inputs import a_run


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    opened = Store(sqlite_url(tmp_path))
    opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
def analysis() -> RunAnalysis:
    """A finished run with a finding."""
    return replay_inputs(a_run("run", nan_at_batch=2), "test")


def test_a_run_comes_back_as_it_was_saved(store, analysis):
    """Its view and its findings."""
    store.save(analysis.view(), b"data", analysis.findings(), taken_at=1.0, recording_bytes=7)
    assert store.run("run").view == analysis.view()
    assert store.findings("run") == list(analysis.findings())
    (snapshot,) = store.snapshots("run")
    assert (snapshot.data, snapshot.recording_bytes) == (b"data", 7)
    assert store.run("other") is None


def test_the_last_two_snapshots_are_kept(store, analysis):
    """Of each run, and one that was set aside stays beside them."""
    for number in range(3):
        store.save(analysis.view(), b"%d" % number, (), taken_at=number)
    store.set_aside(store.snapshots("run")[0])
    for number in range(3, 6):
        store.save(analysis.view(), b"%d" % number, (), taken_at=number)
    assert [snapshot.data for snapshot in store.snapshots("run")] == [b"5", b"4"]
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        assert database.execute("SELECT data FROM stallwatch_snapshots WHERE damaged").fetchall() == [(b"2",)]


def test_a_save_that_fails_leaves_nothing_behind(store, analysis):
    """The snapshot and the findings are one transaction."""
    store.save(analysis.view(), b"good", (), taken_at=1.0)
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE stallwatch_findings")
    with pytest.raises(StoreError, match="cannot write"):
        store.save(analysis.view(), b"bad", analysis.findings(), taken_at=2.0)
    assert [snapshot.data for snapshot in store.snapshots("run")] == [b"good"]


def test_many_writers_wait_for_each_other(store, analysis, tmp_path):
    """As the analyzers of many runs do."""
    failures = []

    def write() -> None:
        mine = Store(sqlite_url(tmp_path))
        try:
            for number in range(20):
                mine.save(analysis.view(), b"%d" % number, analysis.findings(), taken_at=number)
        except StoreError as error:
            failures.append(error)
        mine.close()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(store.snapshots("run")) == 2


def test_a_store_of_another_version_is_refused(store):
    """With what to do about it."""
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE stallwatch_schema SET version=99")
        database.execute("DROP TABLE stallwatch_alerts")
    with pytest.raises(StoreError, match="schema version 99, and this is for version 1: use"):
        Store(store.url).prepare()
    # It is left as it is: nothing is added to it.
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        assert not database.execute("SELECT 1 FROM sqlite_master WHERE name='stallwatch_alerts'").fetchall()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    """And left as it is."""
    (tmp_path / "stallwatch.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot open the store"):
        Store(sqlite_url(tmp_path)).prepare()


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "oracle://x"])
def test_a_url_of_something_else_is_refused(url):
    """The error names what is possible."""
    with pytest.raises(StoreError, match=r"SQLite|sqlite"):
        Store(url)


def test_a_password_is_never_shown():
    """Errors and the start line show the URL."""
    pytest.importorskip("psycopg", reason="stallwatch[postgresql] is not installed")
    assert "secret" not in Store("postgresql+psycopg://me:secret@host/db").shown_url


def test_a_store_of_before_gets_the_tables_that_came_later(store):
    """And keeps what it has."""
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE stallwatch_alerts")
        database.execute("INSERT INTO stallwatch_silences VALUES ('s', 'a', NULL, '', 1.0, 2.0)")
    store.prepare()
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        assert database.execute("SELECT count(*) FROM stallwatch_alerts").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM stallwatch_silences").fetchone() == (1,)


def as_minor_version_0(path) -> None:
    """Take from a store what minor version 1 added."""
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE stallwatch_schema DROP COLUMN minor")
        database.execute("ALTER TABLE stallwatch_snapshots DROP COLUMN format")


def columns(path, table) -> set[str]:
    """The columns of a table."""
    with sqlite3.connect(path) as database:
        return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def test_a_store_of_the_last_minor_version_is_migrated(store, analysis, tmp_path):
    """It keeps what it holds, whose format is the only one that there was, and is as if made by this version."""
    store.save(analysis.view(), b"old", analysis.findings(), taken_at=1.0)
    path = tmp_path / "stallwatch.db"
    as_minor_version_0(path)
    again = Store(store.url)
    again.prepare()
    again.prepare()
    assert columns(path, "stallwatch_snapshots") >= {"format"}
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT version, minor FROM stallwatch_schema").fetchall() == [(1, 1)]
    assert [snapshot.data for snapshot in again.snapshots("run", 2)] == [b"old"]
    again.save(analysis.view(), b"new", (), taken_at=2.0, snapshot_format=3)
    assert [snapshot.data for snapshot in again.snapshots("run", 3)] == [b"new", b"old"]
    assert again.findings("run") == list(analysis.findings())


def test_a_store_of_a_later_minor_version_is_used_as_it_is(store, analysis, tmp_path):
    """Its columns are left alone: the version that is newer goes on with them."""
    path = tmp_path / "stallwatch.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE stallwatch_schema SET minor=7")
        database.execute("ALTER TABLE stallwatch_snapshots ADD COLUMN of_later TEXT")
    rolled_back = Store(store.url)
    rolled_back.prepare()
    rolled_back.save(analysis.view(), b"data", analysis.findings(), taken_at=1.0)
    assert "of_later" in columns(path, "stallwatch_snapshots")
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT minor FROM stallwatch_schema").fetchall() == [(7,)]


def test_a_migration_that_fails_changes_nothing(store, tmp_path, monkeypatch):
    """All of it is one transaction, the added columns too."""
    path = tmp_path / "stallwatch.db"
    as_minor_version_0(path)
    before = columns(path, "stallwatch_schema"), columns(path, "stallwatch_snapshots")
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TRIGGER never BEFORE UPDATE ON stallwatch_schema BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(StoreError, match="cannot open the store"):
        Store(store.url).prepare()
    assert (columns(path, "stallwatch_schema"), columns(path, "stallwatch_snapshots")) == before


@pytest.mark.parametrize("is_old", [False, True])
def test_detectors_that_start_at_once_prepare_one_store(tmp_path, is_old):
    """The one that comes second waits, and finds everything done."""
    url, path = sqlite_url(tmp_path), tmp_path / "stallwatch.db"
    if is_old:
        Store(url).prepare()
        as_minor_version_0(path)
    gate, failures = threading.Barrier(6), []

    def start() -> None:
        mine = Store(url)
        gate.wait()
        try:
            mine.prepare()
        except StoreError as error:
            failures.append(error)
        mine.close()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT version, minor FROM stallwatch_schema").fetchall() == [(1, 1)]


def test_snapshots_of_other_formats_are_kept_for_their_versions(store, analysis):
    """The newest of the format before, for a detector that is rolled back, and of those after, for one that is not any more."""

    def save(*snapshots: tuple[bytes, int]) -> list[bytes]:
        for data, written in snapshots:
            store.save(analysis.view(), data, (), taken_at=1.0, snapshot_format=written)
        return [snapshot.data for snapshot in store.snapshots("run")]

    assert save((b"1", 1), (b"2a", 2), (b"2b", 2)) == [b"2b", b"2a", b"1"]
    assert save((b"3a", 3), (b"3b", 3), (b"3c", 3)) == [b"3c", b"3b", b"2b"]
    assert save((b"4", 4)) == [b"4", b"3c"]
    assert save((b"3d", 3), (b"3e", 3), (b"3f", 3)) == [b"3f", b"3e", b"4"]
    assert [snapshot.data for snapshot in store.snapshots("run", 3)] == [b"3f", b"3e"]
    assert store.snapshots_after("run", 3) == 1


def test_few_damaged_snapshots_are_kept(store, analysis):
    """A disk that damages every one of them is not filled with them."""
    for number in range(9):
        store.save(analysis.view(), b"%d" % number, (), taken_at=number)
        store.set_aside(store.snapshots("run")[0])
    store.save(analysis.view(), b"good", (), taken_at=9)
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        assert database.execute("SELECT count(*) FROM stallwatch_snapshots").fetchone() == (5,)


def test_a_snapshot_that_cannot_be_set_aside_is_a_store_error(store, analysis):
    """Not one of the library below."""
    store.save(analysis.view(), b"data", (), taken_at=1.0)
    (snapshot,) = store.snapshots("run")
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE stallwatch_snapshots")
    with pytest.raises(StoreError, match="cannot write to"):
        store.set_aside(snapshot)
