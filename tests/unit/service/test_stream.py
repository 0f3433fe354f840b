"""A stream whose agent goes at an unlucky moment."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc._cython import cygrpc

from stallwatch.detector.engine.messages import IngestResult, Progress
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.quota import Quotas
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.ingest.stream import RankStream
from support.rank import hello


class Accepting:
    """An analyzer that takes everything."""

    run = "run"

    async def ingest(self, _inputs):
        """How far it has come."""
        return IngestResult("one", applied=True, progress=(Progress(0, hello("run").incarnation, 1, 0),))


class Gone:
    """The call of an agent that reads the first so many messages, and no more."""

    def __init__(self, reads: int) -> None:
        self.left = reads
        self.greeted = asyncio.Event()
        self.ended: list[grpc.StatusCode] = []

    async def read(self):
        """Nothing comes."""
        await asyncio.Event().wait()

    async def write(self, _message):
        """As gRPC does when it cannot."""
        if not self.left:
            raise cygrpc.ExecuteBatchError('Failed "execute_batch"')
        self.left -= 1
        self.greeted.set()

    async def abort(self, code, _message):
        """The end."""
        self.ended.append(code)


@pytest.mark.parametrize("reads", [0, 1])
def test_an_agent_that_goes_while_it_is_written_to_is_no_failure(reads, caplog):
    """With its welcome, or with what comes later; nor does its stream end as if all were safe."""

    async def scenario() -> None:
        call, statistics = Gone(reads), IngestStatistics()
        channel = RunChannel(Accepting(), statistics, Quotas({}, {}, run_bytes_per_second=1e9).of("", "run"))
        stream = RankStream(call, hello("run"), channel, statistics)
        serving = asyncio.create_task(stream.serve())
        if reads:
            await asyncio.wait_for(call.greeted.wait(), 10)
            stream.acknowledge(Progress(0, hello("run").incarnation, 2, 0))
        await asyncio.wait_for(serving, 10)
        assert call.ended == [grpc.StatusCode.UNAVAILABLE]
        channel.close("over")

    asyncio.run(scenario())
    assert not caplog.records
