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
    with pytest.raises(StoreError, match="schema version 99, and this is for version 1: use"):
        Store(store.url).prepare()


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
