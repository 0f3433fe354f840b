"""What one rank sends, decoded from the wire: the input of the analysis.

These mirror protos/stallwatch/v1/telemetry.proto, which documents every field and its unit; columns are numpy arrays.
They were validated at the gateway and are trusted here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Parallelism(IntEnum):
    """How the replicas relate; the numbers of the wire."""

    UNSPECIFIED = 0
    SINGLE = 1
    DATA_PARALLEL = 2
    SHARDED = 3
    LOCAL = 4
    UNWRAPPED = 5


class Phase(IntEnum):
    """What the training thread is doing; the numbers of the wire."""

    UNSPECIFIED = 0
    STARTING = 1
    INPUT = 2
    FORWARD = 3
    BACKWARD = 4
    SYNC = 5
    OPTIMIZER = 6
    EVALUATION = 7
    CHECKPOINT = 8
    COMPILATION = 9
    FINISHED = 10


@dataclass(frozen=True, slots=True)
class RankHello:
    """Identity of one rank process."""

    run: str
    rank: int
    world_size: int
    incarnation: int
    group: str = ""
    local_rank: int = 0
    local_world_size: int = 1
    node_rank: int = 0
    hostname: str = ""
    pid: int = 0
    restart_count: int = 0
    launch_id: str = ""
    agent_version: str = ""
    torch_version: str = ""
    python_version: str = ""
    backend: str = ""
    device: str = ""
    parallelism: Parallelism = Parallelism.UNSPECIFIED
    model: str = ""
    optimizer: str = ""
    parameters: int = 0
    trainable_parameters: int = 0
    first_step: int = 0
    sample_period: int = 0
    dataset_size: int = 0
    base_learning_rate: float = 0.0
    base_batch_size: float = 0.0
    blocks: tuple[str, ...] = ()
    local_steps: int = 0
    total_steps: int = 0
    accumulation_steps: int = 0
    block_elements: tuple[int, ...] = ()


def _no_integers() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


def _no_floats() -> NDArray[np.float64]:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class StepBlock:
    """Consecutive optimizer steps of one rank; every array has shape (steps,), `learning_rate` (steps, groups)."""

    step: NDArray[np.int64]
    loss_sum: NDArray[np.float64]
    samples: NDArray[np.float64]
    micro_batches: NDArray[np.int64]
    learning_rate: NDArray[np.float64]
    step_seconds: NDArray[np.float64]
    input_seconds: NDArray[np.float64]
    forward_seconds: NDArray[np.float64]
    backward_seconds: NDArray[np.float64]
    sync_seconds: NDArray[np.float64]
    optimizer_seconds: NDArray[np.float64]
    ddp_iteration: NDArray[np.int64]
    collectives: NDArray[np.int64]
    gradient_fingerprint: NDArray[np.int64]
    optimizer_steps: NDArray[np.int64]
    # Younger than the rest: empty when the agent does not send them.
    produced_fingerprint: NDArray[np.int64] = field(default_factory=_no_integers)
    gradient_lag: NDArray[np.int64] = field(default_factory=_no_integers)
    gradient_scale: NDArray[np.float64] = field(default_factory=_no_floats)
    input_fingerprint: NDArray[np.int64] = field(default_factory=_no_integers)
    parameters_before: NDArray[np.int64] = field(default_factory=_no_integers)
    parameters_after: NDArray[np.int64] = field(default_factory=_no_integers)


@dataclass(frozen=True, slots=True)
class SampledRecord:
    """What one rank read on a sampled step."""

    step: int
    local_gradient_square: float
    reduced_gradient_square: float
    update_square: float
    parameter_square: float
    gradient_fingerprints: tuple[int, ...] = ()
    parameter_fingerprints: tuple[int, ...] = ()
    buffer_fingerprint: int = 0
    non_finite_blocks: tuple[int, ...] = ()
    optimizer_state_step: int = -1
    samples: float = 0.0
    carried_gradient_square: float = 0.0
    produced_gradient_square: float = math.nan
    anchor_elements: int = 0
    local_anchors: tuple[float, ...] = ()
    produced_anchor: tuple[float, ...] = ()
    gradient_squares: tuple[float, ...] = ()
    parameter_squares: tuple[float, ...] = ()
    update_squares: tuple[float, ...] = ()
    unchanged_share: float = math.nan
    gradient_zero_shares: tuple[float, ...] = ()
    gradient_zero_row_shares: tuple[float, ...] = ()
    weight_decay: float = -1.0
    momentum: float = -1.0
    decoupled_weight_decay: bool = False
    saturated_shares: dict[str, float] = field(default_factory=dict)
    input_mean: float = math.nan
    input_deviation: float = math.nan


@dataclass(frozen=True, slots=True)
class DirectionRecord:
    """Where one rank's gradient points at the step after a sampled one."""

    step: int
    update_alignment: float
    gradient_agreement: float


class LossKind(IntEnum):
    """What a named loss is of; the numbers of the wire."""

    UNSPECIFIED = 0
    GROUP = 1
    COMPONENT = 2


@dataclass(frozen=True, slots=True)
class NamedLoss:
    """A loss of one rank under a name, at the steps at which it was logged; arrays have shape (steps,)."""

    name: str
    kind: LossKind
    step: NDArray[np.int64]
    loss_sum: NDArray[np.float64]
    samples: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EvaluationPoint:
    """One evaluation as one rank logged it."""

    step: int
    loss: float
    samples: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed at a step."""

    step: int
    kind: str
    text: str
    automatic: bool = False


REJECTED = "rejected"
"""The reason why a batch was dropped that the gateway refused."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Telemetry that the agent lost, and why."""

    reason: str
    count: int
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class RankBatch:
    """One sequenced batch of one rank process."""

    sequence: int
    steps: StepBlock | None = None
    samples: tuple[SampledRecord, ...] = ()
    evaluations: tuple[EvaluationPoint, ...] = ()
    events: tuple[Event, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    directions: tuple[DirectionRecord, ...] = ()
    named_losses: tuple[NamedLoss, ...] = ()

    @property
    def is_remains(self) -> bool:
        """Whether it is what the gateway left of a batch that it rejected: agents send none that hold nothing but losses."""
        return (
            self.steps is None
            and not (self.samples or self.evaluations or self.events or self.directions or self.named_losses)
            and any(each.reason == REJECTED for each in self.dropped)
        )


@dataclass(frozen=True, slots=True)
class RankHeartbeat:
    """A sign of life of one rank process."""

    phase: Phase
    phase_seconds: float
    last_step: int
    ddp_iteration: int = -1
    collectives: int = -1
    stack: str = ""
    training_thread_seconds: float = 0.0
    background_seconds: float = 0.0
    buffered_batches: int = 0
    buffered_bytes: int = 0
    dropped_steps: int = 0
    reconnects: int = 0
    sample_period: int = 0
    sent_seconds: float = 0.0
    """When it was sent, by the agent's clock; 0 when unknown."""
    cpu_wait_seconds: float = float("nan")
    """How long the training thread has waited for a CPU, since it began; NaN when unknown."""
    flight_record: str = ""
    """Latest entries of the flight recorder of torch, as JSON; only while the rank seems to hang."""
