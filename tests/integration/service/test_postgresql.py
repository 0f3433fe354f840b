"""The store on a real PostgreSQL."""

from __future__ import annotations

import pytest

from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.store import Store
from support.analyzer_inputs import a_run
from support.postgresql import postgresql
from support.rank import Rank, hello, steps
from support.service import Service

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
