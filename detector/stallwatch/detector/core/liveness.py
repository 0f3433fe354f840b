"""What is known about the processes themselves, once a tick: who lives, in which phase, and since when nothing moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.observations import Floats, Integers

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LivenessObservation:
    """The ranks that have attached in this attempt, at one tick; arrays are indexed like `ranks`.

    All ages are in seconds that the detector was attentive: while it was down or paused, no clock of a rank runs.
    """

    now: float
    attempt: int
    world_size: int
    step: int
    """The foremost finished optimizer step of any rank, from batches or heartbeats; -1 before the first."""
    total_steps: int
    """Declared length of the run; 0 when unknown."""
    ranks: tuple[int, ...]
    connected: Flags
    """Whether the rank's stream is open, as far as the gateway knows."""
    finished: Flags
    """Whether the rank said goodbye."""
    silent_seconds: Floats
    """Since the rank's last message of any kind."""
    gone_seconds: Floats
    """Since its stream ended without a goodbye; 0 while connected or finished."""
    stuck_seconds: Floats
    """Since the rank last finished an optimizer step (or attached)."""
    last_step: Integers
    """Last finished optimizer step; -1 before the first."""
    collectives: Integers
    """Collectives issued, from the newest heartbeat; -1 when unknown."""
    phase: Integers
    """`Phase` from the newest heartbeat."""
    phase_seconds: Floats
    """How long the rank has been in that phase, by its own clock and the time since."""
    heard: Flags
    """Whether the rank has sent a heartbeat."""
    stacks: Mapping[int, str]
    """Python stack by rank, where the newest heartbeat carried one."""
    hosts: Mapping[int, str]
    endings: Mapping[int, str]
    """Reason of the goodbye or disconnect, by rank."""
    cpu_wait_share: Floats = field(default_factory=lambda: np.zeros(0))
    """Share of the time between two heartbeats that the training thread was ready to run and waited for a CPU; NaN where
    unknown, empty when no rank tells."""
    cpu_wait_from: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    cpu_wait_to: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    """The steps that this time covers: after `from`, up to and including `to`."""
    flight_records: Mapping[int, str] = field(default_factory=dict)
    """Latest entries of the flight recorder of torch by rank, as JSON, where the agent sent them since the rank last moved."""
