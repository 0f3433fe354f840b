"""A run while it is watched: when it may be let go."""

from __future__ import annotations

import asyncio

import pytest

from stallwatch.detector.engine.actor import RunAnalyzer
from stallwatch.detector.engine.messages import AnalyzerSettings
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.quota import Quotas
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.service import live_run
from stallwatch.detector.service.live_run import LiveRun
from stallwatch.detector.store import Store, sqlite_url
from support.analyzer_inputs import START, a_run

RUN = "team/run:1"


class SlowAnalyzer:
    """A real one, in this process, whose calls wait for the gate."""

    run = RUN

    def __init__(self, url: str) -> None:
        self._analyzer = RunAnalyzer(RUN, AnalyzerSettings(url))
        self.gate = asyncio.Event()

    async def ingest(self, inputs):
        """Once the gate is open."""
        await self.gate.wait()
        return self._analyzer.ingest(self._analyzer.generation, inputs)

    async def poll(self, _now):
        """At any time."""
        return self._analyzer.poll(START + 1000)


@pytest.fixture
async def watched(tmp_path, monkeypatch):
    """A run that is polled 20 times a second: it, its analyzer, its channel, and a queue of what polls said."""
    monkeypatch.setattr(live_run, "POLL_SECONDS", 0.05)
    Store(sqlite_url(tmp_path)).prepare()
    client = SlowAnalyzer(sqlite_url(tmp_path))
    polled: asyncio.Queue[object] = asyncio.Queue()
    channel = RunChannel(client, IngestStatistics(), Quotas({}, {}, run_bytes_per_second=1e9).of("", RUN))
    live = LiveRun(client, channel, await client.poll(0.0), polled.put_nowait)
    yield live, client, channel, polled
    live.stop_polling()
    channel.close("over")


async def test_a_run_with_something_queued_is_not_over(watched):
    """Its streams have ended, and what is shown is of a time before the analyzer heard of anything."""
    live, client, channel, polled = watched
    for one in a_run(RUN):
        channel.put_now(one)
    for _ in range(3):
        await asyncio.wait_for(polled.get(), 10)
        assert not live.is_over(0.0, 0.0)
    client.gate.set()
    await channel.drain()
    assert not live.is_over(0.0, 0.0)
    for _ in range(2):
        await asyncio.wait_for(polled.get(), 10)
    assert live.is_over(0.0, 0.0)
    assert not live.is_over(1e6, 1e6)


async def test_an_analyzer_that_nobody_has_spoken_to_waits_for_the_next_try_of_its_agent(
    watched, monkeypatch
):
    """It was let go at once, and on a full machine each try started another one."""
    live, _client, _channel, polled = watched
    for _ in range(2):
        await asyncio.wait_for(polled.get(), 10)
    assert not live.is_over(0.0, 0.0)
    monkeypatch.setattr(live_run, "UNHEARD_SECONDS", 0.0)
    assert live.is_over(0.0, 0.0)
