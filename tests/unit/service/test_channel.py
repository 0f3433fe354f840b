"""The queue between streams and analyzer: bounded, in order, void when the analyzer is lost."""

from __future__ import annotations

import asyncio

import pytest

from stallwatch.detector.engine.messages import IngestResult, Progress
from stallwatch.detector.errors import AnalyzerLostError
from stallwatch.detector.ingest import channel as channels
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.quota import Meter, Quotas
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb
from support.analyzer_inputs import item
from support.shown_runs import finding


class GatedAnalyzer:
    """An analyzer that takes its time: each call waits for the gate."""

    run = "run"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.taken: list[int] = []
        self.lost = False

    async def ingest(self, inputs):
        """Note the sequences, once the gate is open."""
        await self.gate.wait()
        if self.lost:
            raise AnalyzerLostError("gone")
        sequences = [analyzer_pb2.AnalyzerInput.FromString(data).batch.sequence for data in inputs]
        self.taken += sequences
        progress = Progress(0, item(0.0).incarnation, max(sequences), 0)
        return IngestResult("one", applied=True, progress=(progress,))


class Ear:
    """A stream that remembers what it is told."""

    def __init__(self) -> None:
        self.accepted = 0
        self.notices: list[str] = []
        self.heard = asyncio.Event()
        self.ended = self.superseded = False

    def acknowledge(self, progress):
        """Remember it."""
        self.accepted = progress.accepted
        self.heard.set()

    def notify(self, notices):
        """Remember them."""
        self.notices += [each.finding.id for each in notices]

    def end(self, _reason):
        """Remember it."""
        self.ended = True

    def supersede(self):
        """Remember it."""
        self.superseded = True


def a_meter() -> Meter:
    """Of a run that may take what it wants."""
    return Quotas({}, {}, run_bytes_per_second=1e9).of("", "run")


def batch(sequence: int) -> analyzer_pb2.AnalyzerInput:
    """A small input."""
    return item(0.0, batch=pb.Batch(sequence=sequence))


def test_a_full_queue_makes_streams_wait(monkeypatch):
    """No more is taken in than fits; order is kept, and the counts return to zero."""
    monkeypatch.setattr(channels, "QUEUE_INPUTS", 8)

    async def scenario() -> None:
        analyzer, statistics, ear = GatedAnalyzer(), IngestStatistics(), Ear()
        channel = RunChannel(analyzer, statistics, a_meter())
        channel.attach((0, batch(1).incarnation), ear)
        for number in range(1, 9):
            assert await channel.put(batch(number)) < 0.05
        blocked = asyncio.create_task(channel.put(batch(9)))
        done, _ = await asyncio.wait({blocked}, timeout=0.2)
        assert not done
        assert statistics.queued_inputs == 8
        analyzer.gate.set()
        assert await blocked > 0.1
        await channel.drain()
        assert analyzer.taken == list(range(1, 10))
        assert (statistics.queued_inputs, statistics.queued_bytes) == (0, 0)
        assert statistics.backpressure_seconds > 0.1
        await asyncio.wait_for(ear.heard.wait(), 5)
        assert ear.accepted == 9
        channel.close("over")

    asyncio.run(scenario())


def test_a_lost_analyzer_voids_the_queue_and_ends_the_streams():
    """Nothing that was queued may reach the next life: the agents send it again."""

    async def scenario() -> None:
        analyzer, statistics, ear, lost = GatedAnalyzer(), IngestStatistics(), Ear(), []
        channel = RunChannel(analyzer, statistics, a_meter(), on_lost=lost.append)
        channel.attach((0, 1), ear)
        await channel.put(batch(1))
        analyzer.lost = True
        analyzer.gate.set()
        await channel.drain()
        assert ear.ended
        assert lost == ["gone"]
        assert (statistics.queued_inputs, statistics.queued_bytes) == (0, 0)
        with pytest.raises(AnalyzerLostError):
            await channel.put(batch(2))
        with pytest.raises(AnalyzerLostError):
            channel.attach((1, 1), Ear())

    asyncio.run(scenario())


def test_a_second_stream_of_a_rank_takes_over():
    """The first one is ended, and does not report the rank as gone."""

    async def scenario() -> None:
        channel = RunChannel(GatedAnalyzer(), IngestStatistics(), a_meter())
        first, second = Ear(), Ear()
        channel.attach((0, 1), first)
        channel.attach((0, 1), second)
        assert first.superseded
        assert not channel.detach((0, 1), first)
        assert channel.detach((0, 1), second)
        channel.close("over")

    asyncio.run(scenario())


def test_time_does_not_run_ahead_of_what_is_queued():
    """Or a rank whose heartbeats wait in a long queue would be called silent."""

    async def scenario() -> None:
        analyzer = GatedAnalyzer()
        channel = RunChannel(analyzer, IngestStatistics(), a_meter())
        assert channel.horizon(500.0) == 500.0
        for received in (100.0, 200.0):
            await channel.put(item(received, batch=pb.Batch(sequence=int(received))))
        assert channel.horizon(500.0) == 100.0
        analyzer.gate.set()
        await channel.drain()
        assert channel.horizon(500.0) == 500.0
        channel.close("over")

    asyncio.run(scenario())


def test_of_many_streams_some_are_told_at_a_time():
    """Each then wakes and writes: a finding of a run of thousands of ranks must not keep the streams of others waiting for all of them."""

    async def scenario() -> None:
        channel = RunChannel(GatedAnalyzer(), IngestStatistics(), a_meter())
        ears = [Ear() for _ in range(10 * channels.TOLD_AT_ONCE)]
        for rank, ear in enumerate(ears):
            channel.attach((rank, 1), ear)
        plateau, straggler = finding("run", "plateau"), finding("run", "straggler")
        channel.acknowledge([Progress(rank, 1, 7, 0) for rank in range(len(ears))])
        channel.notify([plateau])
        channel.notify([straggler])
        told, most = 0, 0
        while told < len(ears):
            await asyncio.sleep(0)
            now = sum(bool(ear.notices) for ear in ears)
            told, most = now, max(most, now - told)
        assert most == channels.TOLD_AT_ONCE
        assert all(ear.accepted == 7 and ear.notices == [plateau.id, straggler.id] for ear in ears)
        channel.close("over")

    asyncio.run(scenario())
