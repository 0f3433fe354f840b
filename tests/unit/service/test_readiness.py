"""Readiness on a real store: however many ask, one look answers them, and a problem shows and goes."""

from __future__ import annotations

import asyncio

import pytest

from stallwatch.detector.service import readiness
from stallwatch.detector.service.readiness import Readiness
from stallwatch.detector.store import Store, sqlite_url


@pytest.fixture
def url(tmp_path):
    """A store that is ready."""
    store = Store(sqlite_url(tmp_path))
    store.prepare()
    store.close()
    return store.url


async def test_a_flood_of_questions_is_one_look(url, monkeypatch):
    """All get its answer; Ray is not there in this test, which is a problem."""
    looks = []
    check = Store.check
    monkeypatch.setattr(Store, "check", lambda store: (looks.append(store), check(store)))
    ready = Readiness(url, lambda: False, in_full=True)
    answers = await asyncio.gather(*(ready.problems() for _ in range(500)))
    assert answers == [["Ray is gone"]] * 500
    assert len(looks) == 1
    ready.close()


async def test_the_end_is_told(url):
    """Whoever sends traffic here is to stop."""
    ready = Readiness(url, lambda: True, in_full=True)
    assert await ready.problems() == ["shutting down", "Ray is gone"]
    ready.close()


@pytest.mark.parametrize("in_full", [True, False])
async def test_where_readers_are_asked_who_they_are_no_address_is_told(url, tmp_path, monkeypatch, in_full):
    """The log has it."""
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.0)
    ready = Readiness(url, lambda: False, in_full=in_full)
    assert await ready.problems() == ["Ray is gone"]
    (tmp_path / "stallwatch.db").rename(tmp_path / "gone.db")
    (tmp_path / "stallwatch.db").mkdir()
    ready._store.close()
    problem, _ray = await ready.problems()
    assert (str(tmp_path) in problem) is in_full
    assert problem.startswith(
        "cannot write to" if in_full else "the store cannot be written: the log says why"
    )
    ready.close()
