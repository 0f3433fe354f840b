"""Valid messages of a rank, with everything in them that a rank can say."""

from __future__ import annotations

import json
import math
from functools import cache

from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import hello, steps

BLOCKS = ("embed", "h.0", "h.1", "head")
RUN = "team/run:1"


def greeting(rank: int = 0, world_size: int = 2, **fields: object) -> pb.Hello:
    """A `Hello` with blocks and declarations."""
    given: dict[str, object] = {
        "blocks": BLOCKS,
        "block_elements": [100, 200, 300, 40],
        "group": "team",
        "sample_period": 4,
        "total_steps": 1000,
        "dataset_size": 5000,
        "base_learning_rate": 0.1,
        "base_batch_size": 8,
        "parameters": 640,
        "trainable_parameters": 640,
        **fields,
    }
    return hello(RUN, rank, world_size, **given)


def batch(sequence: int, first: int, count: int = 4) -> pb.Batch:
    """A batch with one of everything."""
    block = steps(first, count)
    block.ddp_iteration.extend(range(first, first + count))
    block.collectives.extend(range(first, first + count))
    for column in (
        "gradient_fingerprint",
        "produced_fingerprint",
        "input_fingerprint",
        "parameters_before",
        "parameters_after",
    ):
        getattr(block, column).extend(1000 + step for step in range(first, first + count))
    block.gradient_lag.extend([0] * count)
    block.gradient_scale.extend([1.0] * count)
    sampled = pb.SampledRecord(
        step=first,
        local_gradient_square=2.0,
        reduced_gradient_square=1.0,
        update_square=1e-4,
        parameter_square=50.0,
        gradient_fingerprints=[1, 2, 3, 4],
        parameter_fingerprints=[5, 6, 7, 8],
        buffer_fingerprint=9,
        optimizer_state_step=first + 1,
        samples=8.0,
        produced_gradient_square=1.0,
        anchor_elements=4,
        local_anchors=[0.1, 0.2, 0.3, 0.4, math.nan, math.nan, math.nan, math.nan],
        produced_anchor=[0.1, 0.2, 0.3, 0.4],
        gradient_squares=[0.1, 0.2, 0.3, 0.4],
        parameter_squares=[1, 2, 3, 4],
        update_squares=[1e-5, 1e-5, 1e-5, 1e-5],
        unchanged_share=0.0,
        gradient_zero_shares=[0, 0.1, 0, 0],
        gradient_zero_row_shares=[0, 0, 0, math.nan],
        weight_decay=0.01,
        momentum=0.9,
        saturated_shares={"tanh": 0.1},
        input_mean=0.0,
        input_deviation=1.0,
    )
    taken = list(range(first, first + count))
    return pb.Batch(
        sequence=sequence,
        created_unix_seconds=1_700_000_000.0 + sequence,
        steps=block,
        samples=[sampled],
        evaluations=[pb.EvaluationPoint(step=first, loss=1.5, samples=100, metrics={"accuracy": 0.5})],
        events=[pb.Event(step=first, kind="mixup", text="augmentation on")],
        dropped=[pb.Dropped(reason=pb.DROP_REASON_BUFFER_FULL, count=2, first_step=0, last_step=1)],
        named_losses=[
            pb.NamedLoss(
                name="cat", kind=pb.LOSS_KIND_GROUP, step=taken, loss_sum=[1.0] * count, samples=[4.0] * count
            ),
            pb.NamedLoss(
                name="kl",
                kind=pb.LOSS_KIND_COMPONENT,
                step=taken,
                loss_sum=[2.0] * count,
                samples=[8.0] * count,
            ),
        ],
        directions=[pb.DirectionRecord(step=first + 1, update_alignment=0.1, gradient_agreement=0.9)],
    )


def heartbeat(last_step: int = 10) -> pb.Heartbeat:
    """A sign of life of a rank that seems stuck."""
    record = json.dumps(
        [
            {
                "process_group": ["0", "default"],
                "collective_seq_id": 7,
                "profiling_name": "gloo:all_reduce",
                "input_sizes": [[100]],
                "output_sizes": [[100]],
                "state": "started",
            }
        ]
    )
    return pb.Heartbeat(
        sent_unix_seconds=1_700_000_000.0,
        phase=pb.PHASE_SYNC,
        phase_seconds=40.0,
        last_step=last_step,
        ddp_iteration=last_step,
        collectives=2 * last_step,
        stack='  File "train.py", line 10, in main\n    loss.backward()\n',
        agent=pb.AgentHealth(
            training_thread_seconds=0.1, buffered_batches=1, buffered_bytes=1000, sample_period=4
        ),
        flight_record=record,
        cpu_wait_seconds=0.5,
    )


@cache
def messages() -> tuple[pb.StreamRequest, ...]:
    """Of a rank after its greeting."""
    return (
        pb.StreamRequest(batch=batch(1, 0)),
        pb.StreamRequest(batch=batch(2, 4, 2)),
        pb.StreamRequest(batch=pb.Batch(sequence=3, steps=steps(6, 1))),
        pb.StreamRequest(heartbeat=heartbeat()),
        pb.StreamRequest(goodbye=pb.Goodbye(reason="finished", last_step=7)),
    )
