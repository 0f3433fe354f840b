"""Fair shares: by a clock that the test moves, and an event loop of its own."""

from __future__ import annotations

import asyncio

import pytest

from stallwatch.detector.errors import TooManyStreamsError
from stallwatch.detector.ingest import quota
from stallwatch.detector.ingest.admission import Admission
from stallwatch.detector.ingest.channel import QueueMemory
from stallwatch.detector.ingest.quota import ALL_SHARE, OWNER_SHARE, Quotas, metered, owner_share
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.ingest.weight import LIGHT_BYTES, TooHeavyError, check_weight
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import hello, steps


class Loop:
    """A gateway of which the time is made up: work takes what it is said to take, and sleep what it asks for."""

    def __init__(self, monkeypatch, owner_share=OWNER_SHARE) -> None:
        self.time = 0.0
        self.statistics = IngestStatistics()
        self.quotas = Quotas(
            self.statistics.throttled,
            self.statistics.readers_throttled,
            run_bytes_per_second=1e6,
            owner_share=owner_share,
            clock=lambda: self.time,
            busy=lambda: self.time,
        )
        self._sleepers: list[tuple[float, int, asyncio.Future]] = []
        self._count = 0
        monkeypatch.setattr(quota.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Until the made-up time has come."""
        self._count += 1
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time + seconds, self._count, future))
        await future

    async def flood(self, meter, seconds_each: float, until: float, size: int = 0) -> int:
        """Work as much as is allowed; return how many messages that were."""
        done = 0
        while self.time < until:
            await meter.turn(size)
            began = meter.begin()
            self.time += seconds_each
            meter.end(began)
            done += 1
            await self.sleep(0)
        return done

    async def run(self, *work):
        """All of it at once; the results."""
        tasks = [asyncio.ensure_future(each) for each in work]
        while not all(task.done() for task in tasks):
            settled = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(settled.set_result, None)
            await settled
            if self._sleepers and not any(handle for handle in asyncio.get_running_loop()._ready):
                self._sleepers.sort(key=lambda one: one[:2])
                at, _, future = self._sleepers.pop(0)
                self.time = max(self.time, at)
                if not future.done():
                    future.set_result(None)
        return [task.result() for task in tasks]


@pytest.fixture
def loop(monkeypatch):
    """A gateway of which the time is made up."""
    return Loop(monkeypatch)


async def test_who_is_alone_takes_what_it_wants(loop):
    """There is nobody to leave room for."""
    meter = loop.quotas.of("", "big")
    (done,) = await loop.run(loop.flood(meter, 0.005, until=10.0))
    assert done == 2000
    assert loop.statistics.throttled["share"] == 0


async def test_a_flood_gets_its_share_while_another_runs_little(loop):
    """The other never waits."""
    big, small = loop.quotas.of("", "big"), loop.quotas.of("", "small")

    async def little() -> float:
        waited = 0.0
        while loop.time < 10.0:
            waited += await small.turn()
            small.charge(0.001)
            await loop.sleep(0.1)
        return waited

    done, waited = await loop.run(loop.flood(big, 0.002, until=10.0), little())
    assert waited == 0.0
    assert 0.8 * OWNER_SHARE < done * 0.002 / 10.0 < 1.1 * OWNER_SHARE
    assert loop.statistics.throttled["share"] > 5.0


@pytest.mark.parametrize(("cores", "share"), [(1, 0.1), (2, 0.2), (3, 0.3), (64, OWNER_SHARE)])
def test_where_analyzers_run_on_few_cores_one_owner_gets_less(cores, share):
    """A tenth of the cores, as long as that is less."""
    assert owner_share(cores) == pytest.approx(share)


async def test_what_one_owner_gets_is_what_the_cores_allow_and_readers_get_theirs(monkeypatch):
    """Reading is not followed by an analysis."""
    for meter_of, share in (
        (lambda all_of: all_of.of("", "big"), 0.2),
        (lambda all_of: all_of.readers("page"), OWNER_SHARE),
    ):
        loop = Loop(monkeypatch, owner_share=0.2)
        big, small = meter_of(loop.quotas), loop.quotas.of("", "small")

        async def little(loop=loop, small=small) -> None:
            while loop.time < 10.0:
                await small.turn()
                small.charge(0.001)
                await loop.sleep(0.1)

        done, _ = await loop.run(loop.flood(big, 0.002, until=10.0), little())
        assert 0.8 * share < done * 0.002 / 10.0 < 1.1 * share


async def test_accounts_share_alike_however_many_runs_one_has(loop):
    """And the runs of an account its part."""
    runs = [loop.quotas.of("a", f"run{number}") for number in range(3)] + [loop.quotas.of("b", "run")]
    done = await loop.run(*(loop.flood(run, 0.002, until=20.0) for run in runs))
    assert done[3] == pytest.approx(sum(done[:3]), rel=0.2)
    assert max(done[:3]) == pytest.approx(min(done[:3]), rel=0.2)


async def test_many_runs_of_nobody_leave_room_together(loop):
    """However many names somebody makes up."""
    runs = [loop.quotas.of("", f"run{number}") for number in range(8)]
    small = loop.quotas.of("", "small")

    async def little() -> float:
        waited = 0.0
        while loop.time < 10.0:
            waited += await small.turn()
            small.charge(0.001)
            await loop.sleep(0.1)
        return waited

    *done, waited = await loop.run(*(loop.flood(run, 0.001, until=10.0) for run in runs), little())
    assert waited == 0.0
    assert sum(done) * 0.001 / 10.0 == pytest.approx(ALL_SHARE, rel=0.15)


async def test_bytes_are_limited_for_runs_and_for_accounts(loop):
    """By a rate and a burst, also when nobody else is there."""
    run = loop.quotas.of("", "run")
    (done,) = await loop.run(loop.flood(run, 0.0001, until=10.0, size=100_000))
    assert 10e6 <= done * 100_000 <= 12.2e6
    assert loop.statistics.throttled["bytes"] > 5.0
    limited = [loop.quotas.of("a", name, account_bytes_per_second=0.1e6) for name in ("x", "y")]
    began = loop.time
    done = await loop.run(*(loop.flood(each, 0.0001, until=began + 10.0, size=10_000) for each in limited))
    assert 1.0e6 <= sum(done) * 10_000 <= 1.3e6


async def test_readers_are_one_account(loop):
    """What they take does not count for any run, and what they wait is counted on its own."""
    run, pages = loop.quotas.of("", "run"), loop.quotas.readers("page")
    done = await loop.run(loop.flood(run, 0.002, until=10.0), loop.flood(pages, 0.002, until=10.0))
    assert done[0] == pytest.approx(done[1], rel=0.2)
    assert loop.statistics.readers_throttled["share"] > 1.0


async def test_work_is_charged_for_its_steps_and_keeps_its_result_and_errors():
    """What it awaits is not; cancelling reaches it."""
    meter = Quotas({}, {}, run_bytes_per_second=1.0).of("", "run")

    async def good() -> int:
        await asyncio.sleep(0.05)
        return 7

    async def bad() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    assert await metered(meter, good()) == 7
    assert meter.seconds < 0.04
    with pytest.raises(KeyError):
        await metered(meter, bad())
    reached = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            reached.set()

    task = asyncio.create_task(metered(meter, waits()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reached.is_set()


def test_no_run_takes_all_streams():
    """A quarter is kept for others; each refusal names the limit and what to raise."""
    admission = Admission(max_streams=8, max_ranks_per_run=100)
    held = [admission.admit("", "big") for _ in range(6)]
    for one in held:
        one.__enter__()
    with pytest.raises(TooManyStreamsError, match="kept for other runs: raise STALLWATCH_MAX_STREAMS"):
        admission.admit("", "big").__enter__()
    with admission.admit("", "small"):
        with pytest.raises(TooManyStreamsError, match="x has as many streams open as it may"):
            admission.admit("x", "other", max_of_account=0).__enter__()
        with admission.admit("", "small"), pytest.raises(TooManyStreamsError) as error:
            admission.admit("", "third").__enter__()
        assert error.value.reason == "too_many_streams"
    held.pop().__exit__(None, None, None)
    with admission.admit("", "big"):
        pass
    few = Admission(max_streams=100, max_ranks_per_run=1)
    with few.admit("", "run"), pytest.raises(TooManyStreamsError, match="STALLWATCH_MAX_RANKS_PER_RUN"):
        few.admit("", "run").__enter__()


async def test_the_longest_silent_stream_makes_room():
    """Whoever opens streams and says nothing keeps nobody out."""
    admission = Admission(max_streams=8, max_ranks_per_run=1)
    with admission.unknown() as first, admission.unknown() as second:
        assert not first.is_set()
        with admission.unknown() as third:
            assert first.is_set()
            assert not second.is_set()
            assert not third.is_set()


def test_queues_share_the_memory_when_it_is_short():
    """Those that hold more than their part wait, the others do not."""
    memory, big, small = QueueMemory(1000), object(), object()
    memory.hold(big, 900)
    assert memory.share() > 1e9
    memory.hold(small, 200)
    assert memory.share() == 500
    memory.hold(big, 0)
    assert memory.share() > 1e9


@pytest.mark.parametrize(
    "field", ["samples", "evaluations", "events", "dropped", "named_losses", "directions"]
)
def test_a_message_that_would_unfold_is_not_parsed(field):
    """Its sequence is known all the same, so that the agent drops it."""
    batch = pb.Batch(sequence=300, steps=steps(0, 5))
    getattr(batch, field).extend(getattr(pb.Batch(), field).add() for _ in range(LIGHT_BYTES))
    with pytest.raises(TooHeavyError) as error:
        check_weight(pb.StreamRequest(batch=batch).SerializeToString())
    assert (error.value.sequence, error.value.field) == (300, field)


def test_messages_as_they_come_are_light_enough():
    """As large as they may be, or broken."""
    block = steps(0, 4096)
    block.gradient_fingerprint.extend([2**62] * 4096)
    message = pb.StreamRequest(batch=pb.Batch(sequence=1, steps=block)).SerializeToString()
    assert len(message) > LIGHT_BYTES
    check_weight(message)
    check_weight(message[:-100])
    check_weight(b"\xff" * 2 * LIGHT_BYTES)
    check_weight(pb.StreamRequest(hello=hello("x", blocks=["b" * 256] * 512)).SerializeToString())
