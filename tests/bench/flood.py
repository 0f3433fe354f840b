"""What a flood does to others: `python tests/bench/flood.py [--seconds 8] [--only batches,invalid,...]`.

A quiet run of 2 ranks sends 10 batches a second each, and measures from sending to the acknowledgement that the analyzer has
accepted it: for some seconds alone, then while somebody else floods the same service, for each kind of flood. Prints the median and
95th percentile of both and their ratio; the bar is below 2. The flooder stands for another machine but shares the cores with the
service, so it gets what all others leave (`SCHED_IDLE`); how busy service and flooder were is printed. Linux shares the cores among
sessions first and among the processes of each then, so the flooder has a session of its own, and that the lowest priority (nice 19).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from stallwatch.v1 import telemetry_pb2 as pb
from stallwatch.v1 import telemetry_pb2_grpc
from support.rank import hello, steps
from support.service import Service
from support.waiting import wait_until

BATCHES_A_SECOND = 10
STEPS = 10
RANKS = 2
CONNECTIONS = 8
CROWD = 2000
SETTLE_SECONDS = 10.0
"""Before the quiet run is measured alone: what has just begun, or is left of a flood, makes it slower and the ratio better."""
WARM_SECONDS = 3.0
BAR = 2.0


def channel(address: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def batch(sequence: int, first: int, count: int) -> pb.StreamRequest:
    """Consecutive steps."""
    return pb.StreamRequest(batch=pb.Batch(sequence=sequence, steps=steps(first, count)))


# The quiet run.


async def quiet(address: str) -> None:
    """Sends on and on; for each line on standard input, prints the latencies of so many seconds."""
    latencies: list[tuple[float, float]] = []

    async def rank(number: int) -> None:
        connection = channel(address)
        call = telemetry_pb2_grpc.TelemetryServiceStub(connection).Stream()
        sent: dict[int, float] = {}

        async def listen() -> None:
            async for response in call:
                if response.WhichOneof("payload") == "acknowledgement":
                    now = time.perf_counter()
                    accepted = response.acknowledgement.accepted_sequence
                    told = [each for each in sent if each <= accepted]
                    latencies.extend((now, now - sent.pop(sequence)) for sequence in told)

        listening = asyncio.create_task(listen())
        await call.write(pb.StreamRequest(hello=hello("quiet", number, RANKS)))
        began = time.perf_counter()
        for sequence in range(1, 10**9):
            due = began + (sequence + number / RANKS) / BATCHES_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if listening.done():
                await listening
            message = batch(sequence, (sequence - 1) * STEPS, STEPS)
            sent[sequence] = time.perf_counter()
            await call.write(message)

    ranks = [asyncio.create_task(rank(number)) for number in range(RANKS)]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        start = time.perf_counter()
        await asyncio.sleep(float(line))
        print(json.dumps([seconds for at, seconds in latencies if at > start]), flush=True)
        for each in ranks:
            if each.done():
                await each
    for each in ranks:
        each.cancel()


# The floods: each never ends.


async def one_stream(address: str, run: str, number: int, world: int, messages: Any) -> None:
    """A stream that sends what it is told to as fast as it is taken, and comes back."""
    while True:
        async with channel(address) as connection:
            call = telemetry_pb2_grpc.TelemetryServiceStub(connection).Stream()

            async def listen(call: Any = call) -> None:
                async for _response in call:
                    pass

            listening = asyncio.create_task(listen())
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await call.write(
                    pb.StreamRequest(hello=hello(run, number, world, incarnation=time.time_ns()))
                )
                for message in messages():
                    await call.write(message)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        await asyncio.sleep(0.05)


async def flood_batches(address: str, _url: str) -> None:
    """As many of the largest valid batches as are taken, on 8 connections."""

    def messages() -> Any:
        block = steps(0, 4096)
        for sequence in range(1, 10**9):
            first = (sequence - 1) * 4096
            block.step[:] = range(first, first + 4096)
            yield pb.StreamRequest(batch=pb.Batch(sequence=sequence, steps=block))

    await asyncio.gather(
        *(one_stream(address, "flood", number, CONNECTIONS, messages) for number in range(CONNECTIONS))
    )


async def flood_invalid(address: str, _url: str) -> None:
    """Batches that are rejected for their last value, on 8 connections."""
    block = steps(0, 4096)
    block.optimizer_seconds[-1] = math.inf

    def messages() -> Any:
        for sequence in range(1, 10**9):
            yield pb.StreamRequest(batch=pb.Batch(sequence=sequence, steps=block))

    await asyncio.gather(
        *(one_stream(address, "flood", number, CONNECTIONS, messages) for number in range(CONNECTIONS))
    )


async def flood_streams(address: str, _url: str) -> None:
    """Streams that are opened, greeted and dropped, on 8 connections."""

    async def open_and_drop(number: int) -> None:
        async with channel(address) as connection:
            stub = telemetry_pb2_grpc.TelemetryServiceStub(connection)
            while True:
                call = stub.Stream()
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await call.write(pb.StreamRequest(hello=hello("flood", number, CONNECTIONS)))
                call.cancel()
                await asyncio.sleep(0)

    await asyncio.gather(*map(open_and_drop, range(CONNECTIONS)))


async def flood_ranks(address: str, _url: str) -> None:
    """2,000 ranks of one run, each with a heartbeat and a batch of 10 steps as often as they are taken, once a second at most."""
    channels = [channel(address) for _ in range(16)]

    async def rank(number: int) -> None:
        stub = telemetry_pb2_grpc.TelemetryServiceStub(channels[number % len(channels)])
        while True:
            call = stub.Stream()

            async def listen(call: Any = call) -> None:
                async for _response in call:
                    pass

            listening = asyncio.create_task(listen())
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await call.write(
                    pb.StreamRequest(hello=hello("flood", number, CROWD, incarnation=time.time_ns()))
                )
                for sequence in range(1, 10**9):
                    await call.write(batch(sequence, (sequence - 1) * STEPS, STEPS))
                    beat = pb.Heartbeat(phase=pb.PHASE_FORWARD, last_step=sequence * STEPS - 1)
                    await call.write(pb.StreamRequest(heartbeat=beat))
                    await asyncio.sleep(1.0)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await asyncio.sleep(1.0)

    await asyncio.gather(*map(rank, range(CROWD)))


async def flood_http(_address: str, url: str) -> None:
    """The series of the quiet run, asked for on 8 connections as fast as they are answered."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def ask() -> None:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await client.get("/api/v1/runs/quiet/series/loss?points=2000")

        await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))


async def flood_names(address: str, _url: str) -> None:
    """Runs that nobody has heard of, each opened and left at once, on 8 connections: until no more are taken, and then on."""

    async def open_and_leave(number: int) -> None:
        async with channel(address) as connection:
            stub = telemetry_pb2_grpc.TelemetryServiceStub(connection)
            for name in range(10**9):
                call = stub.Stream()
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await call.write(pb.StreamRequest(hello=hello(f"flood-{number}-{name}")))
                    await call.read()
                call.cancel()
                await asyncio.sleep(0)

    await asyncio.gather(*map(open_and_leave, range(CONNECTIONS)))


FLOODS = {
    "batches": flood_batches,
    "invalid": flood_invalid,
    "streams": flood_streams,
    "ranks": flood_ranks,
    "http": flood_http,
    # The last: what it opened stays.
    "names": flood_names,
}


# The measurement.


@dataclass(frozen=True)
class Seen:
    """Latencies of the quiet run, in milliseconds."""

    median: float
    high: float
    count: int


def measure(process: subprocess.Popen[str], seconds: float) -> Seen:
    """Ask the quiet run."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    latencies = np.array(json.loads(process.stdout.readline())) * 1e3
    return Seen(float(np.median(latencies)), float(np.percentile(latencies, 95)), latencies.size)


def start(role: str, service: Service, *, nice: bool) -> subprocess.Popen[str]:
    """This file, as another role."""
    command = [sys.executable, __file__, "--role", role, service.grpc_address, service.url]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=nice
    )
    if nice:
        psutil.Process(process.pid).nice(19)
        with contextlib.suppress(AttributeError, OSError):
            # Linux then takes its core for a free one when it looks for a place for who wakes up.
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        with contextlib.suppress(OSError):
            # Not every kernel shares among sessions.
            Path(f"/proc/{process.pid}/autogroup").write_text("19", encoding="ascii")
    return process


def cpu_seconds(pid: int) -> float:
    """Of a process and those under it that are there."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def throttled(service: Service) -> float:
    """Seconds that anything had to wait for its turn."""
    from prometheus_client.parser import text_string_to_metric_families

    _status, text = service.fetch("/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith(("_throttled_seconds_total", "_backpressure_seconds_total"))
    )


def main() -> int:
    """Measure each kind of flood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--only", default=",".join(FLOODS), help="kinds of flood, by comma")
    parser.add_argument("--role", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, address, url = options.role
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(quiet(address) if role == "quiet" else FLOODS[role](address, url))
        return 0
    worst = 0.0
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; the flooder gets what others leave"
    )
    print("| flood | alone: median, p95 | flooded: median, p95 | ratios | service, flooder: cores | held |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder)) as service:
        assert service.process
        listener = start("quiet", service, nice=False)
        wait_until("the quiet run", lambda: service.metric("stallwatch_step", run="quiet"))
        measure(listener, SETTLE_SECONDS)
        for kind in options.only.split(","):
            alone = measure(listener, options.seconds)
            flooder = start(kind, service, nice=True)
            measure(listener, WARM_SECONDS)
            held, began = throttled(service), time.perf_counter()
            before = cpu_seconds(service.process.pid), cpu_seconds(flooder.pid)
            flooded = measure(listener, options.seconds)
            after = cpu_seconds(service.process.pid), cpu_seconds(flooder.pid)
            seconds = time.perf_counter() - began
            flooder.kill()
            flooder.wait()
            busy = [(now - then) / seconds for now, then in zip(after, before, strict=True)]
            ratios = flooded.median / alone.median, flooded.high / alone.high
            worst = max(worst, *ratios)
            print(
                f"| {kind} | {alone.median:.1f}, {alone.high:.1f} ms | {flooded.median:.1f}, {flooded.high:.1f} ms "
                f"(of {flooded.count}) | {ratios[0]:.2f}, {ratios[1]:.2f} | {busy[0]:.2f}, {busy[1]:.2f} | "
                f"{(throttled(service) - held) / seconds:.1f} s/s |",
                flush=True,
            )
            measure(listener, SETTLE_SECONDS)
        listener.kill()
        listener.wait()
        _status, text = service.fetch("/metrics")
        print(
            "\n".join(line for line in text.splitlines() if "throttled" in line and not line.startswith("#"))
        )
    print(f"worst ratio {worst:.2f}; the bar is {BAR:g}")
    return int(worst >= BAR)


if __name__ == "__main__":
    sys.exit(main())
