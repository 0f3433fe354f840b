"""The store is locked, gone or stopped for a while: nothing is called safe in that time, and nothing is lost after it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from support.postgresql import postgresql_server
from support.rank import Rank, hello, steps
from support.service import Service
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)


def ready(service) -> tuple[int, str]:
    """What /readyz says."""
    return service.fetch("/readyz")


def assert_paused(service, rank: Rank, first: int, says: str) -> int:
    """What is sent now is analyzed and not called safe, and the service says why; return how many steps there are."""
    safe = rank.durable
    for number in range(20):
        rank.send(steps(first + 10 * number, 10))
        rank.wait_accepted(seconds=20)
    assert service.fetch("/livez") == (200, "ok\n")

    def why() -> bool:
        status, text = ready(service)
        return status == 503 and says in text

    wait_until("the reason", why, 30)
    failures = "stallwatch_analyzer_snapshot_failures_total"
    count = service.metric(failures)
    wait_until("a try that fails", lambda: service.metric(failures) > count, 30)
    assert rank.durable <= safe + 1
    return first + 200


def assert_recovered(service, rank: Rank, total: int) -> None:
    """Everything is safe, each step once."""
    rank.send(steps(total, 10))
    rank.wait_durable()
    wait_until("readiness", lambda: ready(service) == (200, "ok\n"), 30)
    (shown,) = service.get(f"/api/v1/runs/{rank.hello.run}/ranks")["ranks"]
    assert (shown["steps_received"], shown["steps_missing"], shown["duplicate_batches"]) == (total + 10, 0, 0)
    assert rank.connections == 1


@pytest.fixture
def started(tmp_path):
    """A detector of its own with a run that has said something."""
    with Service(tmp_path) as service:
        rank = Rank(service.grpc_address, hello("run"))
        rank.send(steps(0, 10))
        rank.wait_durable()
        yield service, rank
        rank.finish()


def test_a_store_that_another_process_locks_pauses_safety_only(started):
    """Ingest, probes and the API go on; then the file is taken away, and put back."""
    service, rank = started
    file = service.directory / "stallwatch.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        total = assert_paused(service, rank, 10, "database is locked")
        other.execute("ROLLBACK")
    assert_recovered(service, rank, total)
    away = file.with_name("away.db")
    file.rename(away)
    total = assert_paused(service, rank, total + 10, "the file is gone")
    assert not file.exists(), "nothing was made in its place"
    away.rename(file)
    assert_recovered(service, rank, total)


def test_a_postgresql_that_is_stopped_and_started_loses_nothing(tmp_path):
    """Connections break; the same detector goes on with new ones."""
    pytest.importorskip("psycopg", reason="stallwatch[postgresql] is not installed")
    with postgresql_server() as server, Service(tmp_path, "--store-url", server.url) as service:
        rank = Rank(service.grpc_address, hello("run"))
        rank.send(steps(0, 10))
        rank.wait_durable()
        server.stop()
        total = assert_paused(service, rank, 10, "cannot write to postgresql")
        server.start()
        assert_recovered(service, rank, total)
        rank.finish()
