"""Garbage in cycles is collected by time, and of the time no more than a share is spent on it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref

import pytest

from stallwatch.detector.service import garbage


class Knot:
    """Only a collector can end it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector():
    """Everything is put back afterwards."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


async def test_what_is_old_garbage_goes_by_time(collector, monkeypatch):
    """It would have waited for five million objects."""
    monkeypatch.setattr(garbage, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(garbage, "SHARE", 1.0)
    garbage.prepare()
    knot = Knot()
    gone = weakref.ref(knot)
    for generation in (0, 1):
        gc.collect(generation)
    del knot
    for generation in (0, 1):
        gc.collect(generation)
    assert gone() is not None
    collecting = asyncio.create_task(garbage.collect_regularly())
    deadline = time.monotonic() + 20
    while gone() is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    collecting.cancel()


async def test_a_long_look_is_followed_by_a_long_pause():
    """A thousandth of the time is spent on looks."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    clock = iter([0.0, 0.01, 100.0, 100.25])
    with contextlib.suppress(asyncio.CancelledError):
        await garbage.collect_regularly(sleep, lambda: next(clock))
    assert pauses == pytest.approx([60.0, 60.0, 250.0])
