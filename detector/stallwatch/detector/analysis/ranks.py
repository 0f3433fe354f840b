"""What is known of each rank of the current attempt: identity, accounting and signs of life, one array a column."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import Phase, RankHeartbeat, RankHello
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.views import STEP_PHASES

_REMEMBERED_INCARNATIONS = 4
_SHORTEST_SPAN = 0.5
"""Seconds between two heartbeats, at least, that a share of them is taken of."""
_SHORTEST_AGENT_SPAN, _LONGEST_AGENT_SPAN, _STALE_AGENT_SPAN = 10.0, 60.0, 600.0
"""Seconds that the share of an agent is taken over, and after which a comparison is begun anew."""


def _floats(fill: float) -> NDArray[np.float64]:
    return np.full(0, fill)


def _integers() -> NDArray[np.int64]:
    return np.full(0, -1, np.int64)


def _counts() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


def _flags() -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_)


_FILLS: dict[str, float] = {
    "last_step": -1,
    "first_step": -1,
    "last_received": -1,
    "next_step": -1,
    "agent_share": np.nan,
    "agent_seconds": np.nan,
    "collectives": -1,
    "loss": np.nan,
    "cpu_wait": np.nan,
    "cpu_wait_share": np.nan,
    "cpu_wait_from": -1,
    "cpu_wait_to": -1,
}

_TIMES = frozenset(f"{phase}_seconds" for phase in ("step", *STEP_PHASES))


@dataclass(slots=True)
class RankTable:
    """The ranks of the current attempt, indexed by global rank."""

    attached: NDArray[np.bool_] = field(default_factory=_flags)
    connected: NDArray[np.bool_] = field(default_factory=_flags)
    finished: NDArray[np.bool_] = field(default_factory=_flags)
    heard: NDArray[np.bool_] = field(default_factory=_flags)
    seen_at: NDArray[np.float64] = field(default_factory=lambda: _floats(0.0))
    gone_at: NDArray[np.float64] = field(default_factory=lambda: _floats(0.0))
    moved_at: NDArray[np.float64] = field(default_factory=lambda: _floats(0.0))
    beat_at: NDArray[np.float64] = field(default_factory=lambda: _floats(0.0))
    phase_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(0.0))
    phase: NDArray[np.int64] = field(default_factory=_counts)
    last_step: NDArray[np.int64] = field(default_factory=_integers)
    """Last finished step from batches and heartbeats."""
    collectives: NDArray[np.int64] = field(default_factory=_integers)
    first_step: NDArray[np.int64] = field(default_factory=_integers)
    """First step of this attempt that was received."""
    last_received: NDArray[np.int64] = field(default_factory=_integers)
    """Last step of this attempt that was received in a batch."""
    next_step: NDArray[np.int64] = field(default_factory=_integers)
    """The step that its data has to go on with: those below it have come, or will not come; -1 when unknown."""
    steps: NDArray[np.int64] = field(default_factory=_counts)
    """Steps of this attempt received, each counted once."""
    duplicate_steps: NDArray[np.int64] = field(default_factory=_counts)
    duplicate_batches: NDArray[np.int64] = field(default_factory=_counts)
    dropped_steps: NDArray[np.int64] = field(default_factory=_counts)
    rejected_steps: NDArray[np.int64] = field(default_factory=_counts)
    """Steps that the gateway rejected and the agent has not said so of yet."""
    loss: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    step_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    sync_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    input_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    forward_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    backward_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    optimizer_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    cpu_wait: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    """Seconds that the training thread had waited for a CPU, at `cpu_wait_at` by the agent's clock."""
    cpu_wait_at: NDArray[np.float64] = field(default_factory=lambda: _floats(0.0))
    cpu_wait_share: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    """Share of the latest span between two heartbeats, which covers these steps: after the first, up to the last."""
    cpu_wait_from: NDArray[np.int64] = field(default_factory=_integers)
    cpu_wait_to: NDArray[np.int64] = field(default_factory=_integers)
    agent_share: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    """Share of its time that the agent took of a rank lately, hooks and threads together."""
    agent_seconds: NDArray[np.float64] = field(default_factory=lambda: _floats(np.nan))
    """What the agent had taken at `agent_seconds_at` by its own clock, from which the share is measured."""
    agent_seconds_at: NDArray[np.float64] = field(default_factory=lambda: _floats(0.0))
    sample_period: NDArray[np.int64] = field(default_factory=_counts)
    """Steps between sampled records now; 0 when not told."""
    incarnation: dict[int, int] = field(default_factory=dict)
    hosts: dict[int, str] = field(default_factory=dict)
    stacks: dict[int, str] = field(default_factory=dict)
    flight_records: dict[int, str] = field(default_factory=dict)
    endings: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A snapshot of an older version has no values for columns that are younger.
        self._fill(self.size)

    @property
    def size(self) -> int:
        """Number of ranks there is room for."""
        return int(self.attached.size)

    def grow(self, size: int) -> None:
        """Make room for ranks below `size`."""
        if size > self.size:
            self._fill(size)

    def _fill(self, size: int) -> None:
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray) and value.size < size:
                fill = _FILLS.get(column.name, np.nan if column.name in _TIMES else 0)
                setattr(self, column.name, np.append(value, np.full(size - value.size, fill, value.dtype)))

    def attach(self, now: float, hello: RankHello) -> None:
        """A process of this rank has introduced itself (again)."""
        rank = hello.rank
        self.grow(rank + 1)
        if self.incarnation.get(rank) != hello.incarnation:
            self.incarnation[rank] = hello.incarnation
            self.finished[rank] = False
            self.heard[rank] = False
            self.phase[rank] = Phase.UNSPECIFIED
            self.collectives[rank] = -1
            self.moved_at[rank] = now
            if self.next_step[rank] < 0:
                self.next_step[rank] = hello.first_step
            self.stacks.pop(rank, None)
            self.flight_records.pop(rank, None)
            self.cpu_wait[rank] = self.cpu_wait_share[rank] = np.nan
            self.cpu_wait_from[rank] = self.cpu_wait_to[rank] = -1
            self.agent_share[rank] = self.agent_seconds[rank] = np.nan
            self.sample_period[rank] = hello.sample_period
        self.endings.pop(rank, None)
        self.hosts[rank] = hello.hostname
        self.attached[rank] = True
        self.connected[rank] = True
        self.gone_at[rank] = 0.0
        self.seen_at[rank] = now

    def beat(self, now: float, rank: int, beat: RankHeartbeat) -> None:
        """A sign of life."""
        self.seen_at[rank] = now
        self.beat_at[rank] = now
        self.heard[rank] = True
        self.connected[rank] = True
        self.gone_at[rank] = 0.0
        self.phase[rank] = beat.phase
        self.phase_seconds[rank] = beat.phase_seconds
        self.collectives[rank] = beat.collectives
        if beat.stack:
            self.stacks[rank] = beat.stack
        else:
            self.stacks.pop(rank, None)
        if beat.flight_record:
            self.flight_records[rank] = beat.flight_record
        self.move(now, rank, beat.last_step)
        self._wait_for_cpu(rank, beat)
        self._cost_of_agent(rank, beat)

    def _wait_for_cpu(self, rank: int, beat: RankHeartbeat) -> None:
        """What this heartbeat says of waiting for a CPU since the one before."""
        elapsed = beat.sent_seconds - self.cpu_wait_at[rank]
        if 0 <= elapsed < _SHORTEST_SPAN and np.isfinite(self.cpu_wait[rank]):
            return
        # Clocks are set now and then: a share is one.
        if elapsed > 0:
            self.cpu_wait_share[rank] = min(
                max((beat.cpu_wait_seconds - self.cpu_wait[rank]) / elapsed, 0.0), 1.0
            )
            self.cpu_wait_from[rank] = self.cpu_wait_to[rank]
        self.cpu_wait[rank], self.cpu_wait_at[rank] = beat.cpu_wait_seconds, beat.sent_seconds
        self.cpu_wait_to[rank] = beat.last_step

    def _cost_of_agent(self, rank: int, beat: RankHeartbeat) -> None:
        """What the agent took of the rank's time, over the latest 10 to 60 s."""
        if beat.sample_period:
            self.sample_period[rank] = beat.sample_period
        taken = beat.training_thread_seconds + beat.background_seconds
        elapsed = beat.sent_seconds - self.agent_seconds_at[rank]
        # The first heartbeat, or a clock that was set: nothing to compare with.
        known = np.isfinite(self.agent_seconds[rank]) and 0 <= elapsed < _STALE_AGENT_SPAN
        if known and elapsed >= _SHORTEST_AGENT_SPAN:
            self.agent_share[rank] = max((taken - self.agent_seconds[rank]) / elapsed, 0.0)
        if not known or elapsed >= _LONGEST_AGENT_SPAN:
            self.agent_seconds[rank], self.agent_seconds_at[rank] = taken, beat.sent_seconds

    def move(self, now: float, rank: int, step: int) -> None:
        """The rank is known to have finished `step`."""
        if step > self.last_step[rank]:
            self.flight_records.pop(rank, None)
            self.last_step[rank] = step
            self.moved_at[rank] = now

    def shift(self, seconds: float) -> None:
        """Forget a span in which the detector was not attentive: no rank is to blame for silence in it."""
        self.seen_at += seconds
        self.moved_at += seconds
        self.beat_at += seconds
        self.gone_at[self.gone_at > 0] += seconds

    def observe(self, now: float, attempt: int, world_size: int, total_steps: int) -> LivenessObservation:
        """The table as the liveness checks see it."""
        index = np.flatnonzero(self.attached)
        gone_at = self.gone_at[index]
        return LivenessObservation(
            now=now,
            attempt=attempt,
            world_size=world_size,
            step=int(self.last_step[index].max()) if index.size else -1,
            total_steps=total_steps,
            ranks=tuple(index.tolist()),
            connected=self.connected[index],
            finished=self.finished[index],
            silent_seconds=now - self.seen_at[index],
            gone_seconds=np.where(gone_at > 0, now - gone_at, 0.0),
            stuck_seconds=now - self.moved_at[index],
            last_step=self.last_step[index],
            collectives=self.collectives[index],
            phase=self.phase[index],
            phase_seconds=np.where(
                self.heard[index], self.phase_seconds[index] + now - self.beat_at[index], 0.0
            ),
            heard=self.heard[index],
            stacks=self.stacks,
            hosts=self.hosts,
            endings=self.endings,
            cpu_wait_share=self.cpu_wait_share[index],
            cpu_wait_from=self.cpu_wait_from[index],
            cpu_wait_to=self.cpu_wait_to[index],
            flight_records=self.flight_records,
        )


@dataclass(slots=True)
class SequenceLedger:
    """Which batches were taken: the highest sequence of every incarnation of every rank."""

    accepted: dict[int, dict[int, int]] = field(default_factory=dict)

    def get(self, rank: int, incarnation: int) -> int:
        """Highest accepted sequence; 0 when none."""
        return self.accepted.get(rank, {}).get(incarnation, 0)

    def accept(self, rank: int, incarnation: int, sequence: int) -> bool:
        """Take a sequence number; False when it was taken before."""
        known = self.accepted.setdefault(rank, {})
        if sequence <= known.get(incarnation, 0):
            return False
        known[incarnation] = sequence
        if len(known) > _REMEMBERED_INCARNATIONS:
            # The one first heard of: numbers say nothing where a clock was set back.
            del known[next(iter(known))]
        return True
