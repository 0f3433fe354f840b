"""A SQLite file that goes away is noticed, and none is made in its place."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store, sqlite_url


@pytest.fixture
def store(tmp_path):
    """One that waits for nobody."""
    opened = Store(sqlite_url(tmp_path), busy_seconds=0.05)
    opened.prepare()
    yield opened
    opened.close()


def test_a_file_that_is_moved_away_fails_until_it_is_back(store, tmp_path):
    """SQLite itself would go on writing to it."""
    file, away = tmp_path / "stallwatch.db", tmp_path / "away.db"
    store.check()
    file.rename(away)
    for _ in range(2):
        with pytest.raises(StoreError, match="the file is gone: put it back"):
            store.check()
    assert not file.exists()
    away.rename(file)
    store.check()


def test_a_file_that_was_replaced_is_the_one_from_then_on(store, tmp_path):
    """An empty one has no tables: that is an error too, until somebody prepares it."""
    (tmp_path / "stallwatch.db").unlink()
    (tmp_path / "stallwatch.db").touch()
    with pytest.raises(StoreError, match="no such table"):
        store.check()
    store.prepare()
    store.check()


def test_a_lock_is_waited_for_no_longer_than_asked(store, tmp_path):
    """And others may read in the meantime."""
    with closing(sqlite3.connect(tmp_path / "stallwatch.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked"):
            store.check()
        assert store.runs() == []
        other.execute("ROLLBACK")
    store.check()
