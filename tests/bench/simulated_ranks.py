"""Simulated ranks through the real gateway: `python tests/bench/simulated_ranks.py [--ranks 1024] [--healthy-steps 980] ...`.

A real `stallwatch serve` gets as many real streams as there are ranks. Phases vary by lognormal noise, ranks differ lastingly by
1.5 %, one rank-step in a thousand takes three times as long, and heartbeats say that nobody waits for a CPU. One run is healthy,
in another one rank is slower from a step on. Prints how many findings of severity warning or above the healthy one got, and when
the slow rank was named.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stallwatch.v1 import telemetry_pb2 as pb
from stallwatch.v1 import telemetry_pb2_grpc
from support.rank import healthy_loss, hello
from support.service import Service

CHANNELS = 16
START = 1_700_000_000.0


@dataclass(frozen=True)
class Simulation:
    """A job of many ranks."""

    run: str
    ranks: int
    steps: int
    step_seconds: float
    noise: float
    seed: int
    batch_steps: int
    slow_rank: int = -1
    slow_share: float = 0.0
    slow_from: int = 0

    def batches(self) -> Iterator[tuple[int, list[pb.Batch], float]]:
        """(steps so far, a batch of every rank, seconds that have passed for the job)."""
        rng = np.random.default_rng(self.seed)
        lasting = rng.normal(1.0, 0.015, self.ranks)
        passed = 0.0
        for sequence, low in enumerate(range(0, self.steps, self.batch_steps), 1):
            step = np.arange(low, min(low + self.batch_steps, self.steps))
            shape = (step.size, self.ranks)

            def phase(share: float, shape: tuple[int, int] = shape) -> np.ndarray:
                return self.step_seconds * share * lasting * rng.lognormal(0.0, self.noise, shape)

            inputs, forward, backward = phase(0.05), phase(0.35), phase(0.55)
            forward[rng.random(shape) < 0.001] *= 3.0
            if self.slow_rank >= 0:
                extra = self.slow_share * self.step_seconds
                forward[step >= self.slow_from, self.slow_rank] += extra
            own = inputs + forward + backward
            sync = own.max(axis=1, keepdims=True) - own + 0.05 * self.step_seconds
            optimizer = phase(0.05)
            whole = own + sync + optimizer
            passed += float(np.median(whole, axis=1).sum())
            losses = [healthy_loss(int(each)) * 8 for each in step]
            yield (
                int(step[-1]),
                [
                    pb.Batch(
                        sequence=sequence,
                        steps=pb.StepBatch(
                            step=step.tolist(),
                            loss_sum=losses,
                            samples=[8.0] * step.size,
                            micro_batches=[1] * step.size,
                            learning_rate=[0.1] * step.size,
                            learning_rate_groups=1,
                            step_seconds=whole[:, rank],
                            input_seconds=inputs[:, rank],
                            forward_seconds=forward[:, rank],
                            backward_seconds=backward[:, rank],
                            sync_seconds=sync[:, rank],
                            optimizer_seconds=optimizer[:, rank],
                            ddp_iteration=(step + 1).tolist(),
                            collectives=(3 * (step + 1)).tolist(),
                            gradient_fingerprint=(7919 * step + 11).tolist(),
                            optimizer_steps=[1] * step.size,
                        ),
                    )
                    for rank in range(self.ranks)
                ],
                passed,
            )


async def play(address: str, job: Simulation) -> float:
    """Feed the job as fast as it is taken; return the seconds that took."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CHANNELS)
    ]
    calls = [
        telemetry_pb2_grpc.TelemetryServiceStub(channels[rank % CHANNELS]).Stream()
        for rank in range(job.ranks)
    ]
    accepted = [0] * job.ranks
    changed = asyncio.Event()

    async def greet(rank: int) -> None:
        await calls[rank].write(
            pb.StreamRequest(hello=hello(job.run, rank, job.ranks, hostname=f"node{rank // 8}"))
        )

    async def listen(rank: int) -> None:
        async for response in calls[rank]:
            if response.WhichOneof("payload") == "acknowledgement":
                accepted[rank] = max(accepted[rank], response.acknowledgement.accepted_sequence)
                changed.set()

    async def send(rank: int, batch: pb.Batch, last_step: int, passed: float) -> None:
        beat = pb.Heartbeat(
            sent_unix_seconds=START + passed,
            phase=pb.PHASE_FORWARD,
            last_step=last_step,
            ddp_iteration=-1,
            collectives=-1,
            cpu_wait_seconds=0.01 * passed,
        )
        await calls[rank].write(pb.StreamRequest(heartbeat=beat))
        await calls[rank].write(pb.StreamRequest(batch=batch))

    await asyncio.gather(*map(greet, range(job.ranks)))
    listeners = [asyncio.ensure_future(listen(rank)) for rank in range(job.ranks)]
    began = time.perf_counter()
    for count, (last_step, batches, passed) in enumerate(job.batches(), 1):
        await asyncio.gather(*(send(rank, batches[rank], last_step, passed) for rank in range(job.ranks)))
        # Two batches at most are under way: ranks of a synchronous job are never far apart.
        while min(accepted) < count - 1:
            changed.clear()
            await asyncio.wait_for(changed.wait(), 120)
    seconds = time.perf_counter() - began
    for call in calls:
        await call.write(pb.StreamRequest(goodbye=pb.Goodbye(reason="finished", last_step=job.steps - 1)))
        await call.done_writing()
    await asyncio.wait(listeners, timeout=60)
    for channel in channels:
        await channel.close()
    return seconds


def findings(service: Service, run: str) -> list[dict[str, Any]]:
    """All findings of the run that are serious, once it is over."""
    deadline = time.monotonic() + 120
    while service.get(f"/api/v1/runs/{run}")["state"] != "finished":
        if time.monotonic() > deadline:
            raise TimeoutError(f"{run} is not finished after 120 s")
        time.sleep(0.2)
    answer = service.get(f"/api/v1/runs/{run}/findings?status=all")
    # The loss of these ranks is made up, and not what is looked at.
    return [
        each for each in answer["findings"] if each["severity"] != "info" and each["category"] != "learning"
    ]


def main() -> int:
    """Run both jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument(
        "--healthy-steps", type=int, default=200, help="980 with 1,024 ranks are 10^6 rank-steps"
    )
    parser.add_argument("--slow-share", type=float, default=0.15)
    parser.add_argument("--noise", type=float, default=0.05, help="of each phase, lognormal")
    parser.add_argument("--step-seconds", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-steps", type=int, default=20)
    options = parser.parse_args()
    common = {
        "ranks": options.ranks,
        "step_seconds": options.step_seconds,
        "noise": options.noise,
        "seed": options.seed,
        "batch_steps": options.batch_steps,
    }
    healthy = Simulation(run="healthy", steps=options.healthy_steps, **common)
    onset = 107
    slow = Simulation(
        run="slow",
        steps=onset + 133,
        slow_rank=options.ranks * 7 // 10,
        slow_share=options.slow_share,
        slow_from=onset,
        **common,
    )
    failed = False
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder), "--max-runs", "4") as service:
        for job in (healthy, slow):
            seconds = asyncio.run(play(service.grpc_address, job))
            found = findings(service, job.run)
            count = job.ranks * job.steps
            print(
                f"{job.run}: {job.ranks:,} ranks x {job.steps} steps = {count:,} rank-steps in {seconds:.1f} s "
                f"({count / seconds:,.0f} a second)"
            )
            for each in found:
                print(
                    f"  {each['kind']} at step {each['detected_step']}, ranks {each['ranks']}: {each['reason']}"
                )
            if job is healthy:
                print(f"  false findings: {len(found)}")
                failed |= bool(found)
                continue
            named = [each for each in found if each["kind"] == "straggler"]
            right = len(named) == len(found) == 1 and named[0]["ranks"] == [job.slow_rank]
            delay = named[0]["detected_step"] - onset if named else -1
            print(
                f"  rank {job.slow_rank}, {100 * job.slow_share:g} % slower from step {onset}: named after {delay} steps"
            )
            failed |= not right or delay > 100
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
