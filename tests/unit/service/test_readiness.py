"""Readiness on a real store: however many ask, one look answers them, and a problem shows and goes."""

from __future__ import annotations

import asyncio

import pytest

from stallwatch.detector.service import readiness
from stallwatch.detector.service.readiness import Readiness
from stallwatch.detector.store import Store, sqlite_url


@pytest.fixture
def store(tmp_path):
    """A store that counts how often it was looked at."""
    store = Store(sqlite_url(tmp_path))
    store.prepare()
    store.looks = 0
    check = store.check

    def counted() -> None:
        store.looks += 1
        check()

    store.check = counted
    yield store
    store.close()


async def test_a_flood_of_questions_is_one_look(store):
    """All get its answer; Ray is not there in this test, which is a problem."""
    ready = Readiness(store, in_full=True)
    answers = await asyncio.gather(*(ready.problems() for _ in range(500)))
    assert answers == [["Ray is gone"]] * 500
    assert store.looks == 1


@pytest.mark.parametrize("in_full", [True, False])
async def test_where_readers_are_asked_who_they_are_no_address_is_told(store, tmp_path, monkeypatch, in_full):
    """The log has it."""
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.0)
    ready = Readiness(store, in_full=in_full)
    assert await ready.problems() == ["Ray is gone"]
    store.close()
    (tmp_path / "stallwatch.db").rename(tmp_path / "gone.db")
    (tmp_path / "stallwatch.db").mkdir()
    problem, _ray = await ready.problems()
    assert (str(tmp_path) in problem) is in_full
    assert problem.startswith(
        "cannot write to" if in_full else "the store cannot be written: the log says why"
    )
