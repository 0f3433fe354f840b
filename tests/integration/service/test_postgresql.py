"""The store on a real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from stallwatch.detector.alerts.book import AlertBook
from stallwatch.detector.alerts.ledger import Ledger
from stallwatch.detector.alerts.silences import Silence
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.store import Store
from support.analyzer_inputs import a_run
from support.postgresql import postgresql
from support.rank import Rank, hello, steps
from support.service import Service
from support.shown_runs import full_run

pytest.importorskip("psycopg", reason="stallwatch[postgresql] is not installed")


@pytest.fixture(scope="module")
def url():
    """The URL of a database of its own."""
    with postgresql() as url:
        yield url


def test_a_run_comes_back_as_it_was_saved(url):
    """As from SQLite: two snapshots, the view and the findings, each once."""
    analysis = replay_inputs(a_run("run", nan_at_batch=2), "test")
    store = Store(url)
    store.prepare()
    for number in range(4):
        store.save(analysis.view(), b"%d" % number, analysis.findings(), taken_at=number)
    assert [snapshot.data for snapshot in store.snapshots("run")] == [b"3", b"2"]
    store.set_aside(store.snapshots("run")[0])
    assert [snapshot.data for snapshot in store.snapshots("run")] == [b"2"]
    assert store.run("run").view == analysis.view()
    assert store.findings("run") == list(analysis.findings())
    store.check()
    store.close()


def test_tables_of_the_last_minor_version_are_migrated(url):
    """By one of the detectors that start at once; the others wait for it and find it done."""
    first = Store(url)
    first.prepare()
    with first.transaction() as connection:
        connection.execute(text("ALTER TABLE stallwatch_schema DROP COLUMN minor"))
        connection.execute(text("ALTER TABLE stallwatch_snapshots DROP COLUMN format"))
    stores = [Store(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Store.prepare, stores))
    minor = first.rows(text("SELECT version, minor FROM stallwatch_schema"))
    assert [tuple(row) for row in minor] == [(1, 1)]
    assert first.snapshots("nobody", 3) == []
    for store in (first, *stores):
        store.close()


def test_alerts_and_silences_come_back_as_they_were_saved(url):
    """As from SQLite: who fires, who is still to be told, and what is kept quiet."""
    store = Store(url)
    store.prepare()
    ledger = Ledger(store)
    view = full_run("alerting", ("hang", "straggler")).view
    book = AlertBook(webhooks=2)
    for now in (10.0, 11.0):
        book.observe(view, view.findings, now)
        book.pass_time(now)
        assert ledger.save(*book.take_changes()) == frozenset()
    assert {alert.id: alert for alert in ledger.firing()} == book.firing
    first, second = ledger.pending()
    assert (first.status, first.pending) == ("firing", (0, 1))
    ledger.told(replace(first, pending=()))
    assert ledger.pending() == [second]
    silence = Silence("s", "a*", None, "why", 1.0, 100.0)
    ledger.add_silence(silence)
    assert ledger.silences() == [silence]
    assert [ledger.expire_silence("s", 50.0), ledger.expire_silence("s", 51.0)] == [True, False]
    ledger.forget_old(1e9)
    assert ledger.silences() == []
    assert ledger.pending() == [second]
    store.close()


@pytest.mark.timeout(120)
def test_a_killed_service_goes_on_from_postgresql(url, tmp_path):
    """Nothing lost, nothing doubled; the password would not be shown."""
    with Service(tmp_path, "--store-url", url) as service:
        rank = Rank(service.grpc_address, hello("pg"))
        rank.send(steps(0, 50))
        rank.wait_durable()
        service.restart()
        rank.send(steps(50, 50))
        rank.wait_durable()
        (shown,) = service.get("/api/v1/runs/pg/ranks")["ranks"]
        assert (shown["steps_received"], shown["steps_missing"]) == (100, 0)
        rank.finish()
    assert not (tmp_path / "stallwatch.db").exists()
