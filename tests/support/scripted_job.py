"""A job as one list of analyzer inputs in the order of time: attempts, batches, samples, heartbeats, ticks, findings.

The same arguments give the same inputs, byte for byte, and every input carries the time at which it was received: whoever feeds
the list to an analysis, however often that is killed in between, must end with the same state.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import hello, steps

START = 1_700_000_000.0
INCARNATION = 1_700_000_000_000_000_000
BLOCKS = ("embed", "layers.0", "head")
BATCH_STEPS = 10
ATTEMPT_NANOSECONDS = 1_000_000_000_000


def scripted_job(
    run: str = "team/scripted",
    ranks: int = 3,
    batches: int = 30,
    attempts: int = 2,
    lost: tuple[tuple[int, int, int], ...] = (),
    seed: int = 1,
) -> Iterator[analyzer_pb2.AnalyzerInput]:
    """All inputs; `lost` names batches that a full buffer cost: (attempt, rank, number), reported by the next one.

    In each attempt rank 0 has a NaN in its loss, rank 1 is slow at the end, and all say goodbye.
    """
    rng = random.Random(seed)
    now = START
    for attempt in range(attempts):
        born = INCARNATION + attempt * ATTEMPT_NANOSECONDS
        first = attempt * batches * BATCH_STEPS

        for rank in range(ranks):
            now += 0.01
            yield _item(
                now,
                rank,
                born,
                hello=hello(
                    run,
                    rank,
                    ranks,
                    incarnation=born + rank,
                    restart_count=attempt,
                    launch_id="launch",
                    first_step=first,
                    blocks=BLOCKS,
                    sample_period=20,
                ),
            )
        pending: dict[int, list[pb.Dropped]] = {rank: [] for rank in range(ranks)}
        sequences = dict.fromkeys(range(ranks), 0)
        for number in range(batches):
            low = first + number * BATCH_STEPS
            for rank in range(ranks):
                now += 0.05
                sequences[rank] += 1
                if (attempt, rank, number) in lost:
                    pending[rank].append(
                        pb.Dropped(
                            reason=pb.DROP_REASON_BUFFER_FULL,
                            count=BATCH_STEPS,
                            first_step=low,
                            last_step=low + BATCH_STEPS - 1,
                        )
                    )
                    continue
                batch = _batch(rng, rank, sequences[rank], low, number, batches)
                batch.dropped.extend(pending[rank])
                pending[rank].clear()
                yield _item(now, rank, born, batch=batch)
            for rank in range(ranks):
                if number % 2 == 0:
                    now += 0.01
                    yield _item(now, rank, born, heartbeat=_heartbeat(now, low + BATCH_STEPS - 1))
            now += 0.8
            yield analyzer_pb2.AnalyzerInput(received_unix_seconds=now, tick=analyzer_pb2.Tick())
        for rank in range(ranks):
            now += 0.05
            last = first + batches * BATCH_STEPS - 1
            yield _item(now, rank, born, goodbye=pb.Goodbye(reason="finished", last_step=last))
        now += 1.0
        yield analyzer_pb2.AnalyzerInput(received_unix_seconds=now, tick=analyzer_pb2.Tick())


def _item(now: float, rank: int, born: int, **payload: object) -> analyzer_pb2.AnalyzerInput:
    return analyzer_pb2.AnalyzerInput(
        received_unix_seconds=now,
        rank=rank,
        incarnation=born + rank,
        **payload,  # type: ignore[arg-type]
    )


def _batch(rng: random.Random, rank: int, sequence: int, low: int, number: int, batches: int) -> pb.Batch:
    block = steps(low, BATCH_STEPS)
    block.ddp_iteration.extend(range(low, low + BATCH_STEPS))
    block.collectives.extend(3 * step for step in range(low, low + BATCH_STEPS))
    block.gradient_fingerprint.extend(step * 7919 % 1_000_003 for step in range(low, low + BATCH_STEPS))
    for row in range(BATCH_STEPS):
        block.loss_sum[row] *= 1.0 + 0.01 * rng.random()
        if rank == 1 and number >= 2 * batches // 3:
            block.input_seconds[row] += 0.2
            block.step_seconds[row] += 0.2
    if rank == 0 and number == batches // 2:
        block.loss_sum[3] = math.nan
    batch = pb.Batch(sequence=sequence, steps=block)
    if low % 20 == 0:
        batch.samples.append(_sample(rng, low))
    if number % 5 == 0:
        batch.evaluations.add(step=low + 2, loss=2.0 + rng.random(), samples=8.0)
    if rank == 0 and number % 7 == 3:
        batch.events.add(step=low + 5, kind="note", text=f"batch {number}")
    return batch


def _sample(rng: random.Random, step: int) -> pb.SampledRecord:
    prints = [step * 31 + block for block in range(len(BLOCKS))]
    return pb.SampledRecord(
        step=step,
        local_gradient_square=4.0 + rng.random(),
        reduced_gradient_square=2.0 + rng.random(),
        update_square=0.01,
        parameter_square=100.0,
        gradient_fingerprints=prints,
        parameter_fingerprints=prints,
        samples=8.0,
    )


def _heartbeat(now: float, last_step: int) -> pb.Heartbeat:
    return pb.Heartbeat(
        sent_unix_seconds=now,
        phase=pb.PHASE_FORWARD,
        last_step=last_step,
        ddp_iteration=last_step,
        collectives=3 * last_step,
        cpu_wait_seconds=0.001 * (now - START),
    )
