"""A data-parallel job without processes: what its ranks would send, with known faults, and its analysis.

Steps are made for all ranks at once as columns; faults edit the columns. `play` hands them to an analysis rank by rank, in
batches, with heartbeats and ticks, on a clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from stallwatch.detector.analysis import AnalysisConfig, RunAnalysis
from stallwatch.detector.core.inputs import (
    Parallelism,
    Phase,
    RankBatch,
    RankHeartbeat,
    RankHello,
    SampledRecord,
    StepBlock,
)
from stallwatch.detector.signals.loss import LossConfig

START = 1_700_000_000.0
BLOCKS = ("embed", "layers.0", "layers.1", "head")


@dataclass
class Columns:
    """Columns of consecutive steps of all ranks, each of shape (steps, ranks)."""

    step: np.ndarray
    loss_sum: np.ndarray
    samples: np.ndarray
    step_seconds: np.ndarray
    input_seconds: np.ndarray
    forward_seconds: np.ndarray
    backward_seconds: np.ndarray
    sync_seconds: np.ndarray
    optimizer_seconds: np.ndarray
    ddp_iteration: np.ndarray
    collectives: np.ndarray
    gradient_fingerprint: np.ndarray
    micro_batches: np.ndarray
    input_fingerprint: np.ndarray
    optimizer_steps: np.ndarray
    produced_fingerprint: np.ndarray
    gradient_lag: np.ndarray
    gradient_scale: np.ndarray
    parameters_before: np.ndarray
    parameters_after: np.ndarray
    rates: np.ndarray
    """Factors of the learning rate. The five before it are unknown unless `probed` is among the faults."""
    learning_rate: float = 0.1

    def block(self, rank: int, low: int, high: int) -> StepBlock:
        """Rows [low, high) of one rank."""
        rows = slice(low, high)
        return StepBlock(
            step=self.step[rows].astype(np.int64),
            loss_sum=self.loss_sum[rows, rank].copy(),
            samples=self.samples[rows, rank].copy(),
            micro_batches=self.micro_batches[rows, rank].copy(),
            learning_rate=(self.learning_rate * self.rates[rows, rank])[:, None],
            step_seconds=self.step_seconds[rows, rank].copy(),
            input_seconds=self.input_seconds[rows, rank].copy(),
            forward_seconds=self.forward_seconds[rows, rank].copy(),
            backward_seconds=self.backward_seconds[rows, rank].copy(),
            sync_seconds=self.sync_seconds[rows, rank].copy(),
            optimizer_seconds=self.optimizer_seconds[rows, rank].copy(),
            ddp_iteration=self.ddp_iteration[rows, rank].copy(),
            collectives=self.collectives[rows, rank].copy(),
            gradient_fingerprint=self.gradient_fingerprint[rows, rank].copy(),
            optimizer_steps=self.optimizer_steps[rows, rank].copy(),
            input_fingerprint=self.input_fingerprint[rows, rank].copy(),
            produced_fingerprint=self.produced_fingerprint[rows, rank].copy(),
            gradient_lag=self.gradient_lag[rows, rank].copy(),
            gradient_scale=self.gradient_scale[rows, rank].copy(),
            parameters_before=self.parameters_before[rows, rank].copy(),
            parameters_after=self.parameters_after[rows, rank].copy(),
        )


def probed(columns: Columns) -> None:
    """No fault: what agents tell of gradients and parameters around a healthy step. Comes before the faults that edit it."""
    columns.produced_fingerprint[:] = columns.gradient_fingerprint
    columns.gradient_lag[:] = 0
    columns.gradient_scale[:] = 1.0
    columns.parameters_before[:] = 2 * columns.step[:, None]
    columns.parameters_after[:] = 2 * columns.step[:, None] + 1


Fault = Callable[[Columns], None]
SampleFault = Callable[[int, int, SampledRecord], SampledRecord]


@dataclass
class Job:
    """A job and how it is watched."""

    ranks: int = 4
    steps: int = 200
    seed: int = 1
    step_seconds: float = 0.2
    jitter: float = 0.05
    first_step: int = 0
    parallelism: Parallelism = Parallelism.DATA_PARALLEL
    batch_steps: int = 5
    sample_period: int = 25
    faults: tuple[Fault, ...] = ()
    sample_fault: SampleFault | None = None
    restart_count: int = 0
    launch_id: str = "launch"
    incarnation: int = 1_000
    total_steps: int = 0
    dataset_size: int = 0
    base_batch_size: float = 0.0
    accumulation_steps: int = 0
    run: str = "job"
    sequence: dict[int, int] = field(default_factory=dict)

    def columns(self) -> Columns:
        """All its steps."""
        rng = np.random.default_rng(self.seed)
        shape = (self.steps, self.ranks)
        step = self.first_step + np.arange(self.steps)
        base = self.step_seconds

        def lasting(share: float) -> np.ndarray:
            return base * share * rng.lognormal(0.0, self.jitter, shape)

        own = {
            "input": lasting(0.05),
            "forward": lasting(0.3),
            "backward": lasting(0.45),
            "optimizer": lasting(0.05),
        }
        level = (2.0 + 1.0 / (1.0 + step[:, None] / 50.0)) * rng.lognormal(0.0, 0.02, shape)
        made = Columns(
            step=step,
            loss_sum=level * 8,
            samples=np.full(shape, 8.0),
            step_seconds=np.zeros(shape),
            input_seconds=own["input"],
            forward_seconds=own["forward"],
            backward_seconds=own["backward"],
            sync_seconds=np.zeros(shape),
            optimizer_seconds=own["optimizer"],
            ddp_iteration=np.repeat(np.arange(1, self.steps + 1)[:, None], self.ranks, axis=1),
            collectives=np.repeat(3 * np.arange(1, self.steps + 1)[:, None], self.ranks, axis=1),
            gradient_fingerprint=np.repeat(rng.integers(0, 1 << 60, (self.steps, 1)), self.ranks, axis=1),
            micro_batches=np.ones(shape, np.int64),
            input_fingerprint=np.random.default_rng((self.seed, 7)).integers(0, 1 << 32, shape),
            optimizer_steps=np.ones(shape, np.int64),
            produced_fingerprint=np.full(shape, -1, np.int64),
            gradient_lag=np.full(shape, -1, np.int64),
            gradient_scale=np.full(shape, np.nan),
            parameters_before=np.full(shape, -1, np.int64),
            parameters_after=np.full(shape, -1, np.int64),
            rates=np.ones(shape),
        )
        for fault in self.faults:
            fault(made)
        before_sync = made.input_seconds + made.forward_seconds + made.backward_seconds
        arrival = before_sync.max(axis=1, keepdims=True)
        communication = base * 0.1 * rng.lognormal(0.0, self.jitter, (self.steps, 1))
        waited = arrival - before_sync + communication
        made.sync_seconds += waited
        made.step_seconds += before_sync + waited + made.optimizer_seconds
        return made

    def hello(self, rank: int) -> RankHello:
        """Who speaks."""
        return RankHello(
            run=self.run,
            rank=rank,
            world_size=self.ranks,
            incarnation=self.incarnation + rank,
            hostname=f"node{rank // 8}",
            restart_count=self.restart_count,
            launch_id=self.launch_id,
            backend="gloo",
            parallelism=self.parallelism,
            blocks=BLOCKS,
            first_step=self.first_step,
            sample_period=self.sample_period,
            total_steps=self.total_steps,
            dataset_size=self.dataset_size,
            base_batch_size=self.base_batch_size,
            accumulation_steps=self.accumulation_steps,
        )

    def sample(self, step: int, rank: int) -> SampledRecord:
        """A sampled record of a healthy replica, and what the fault makes of it."""
        rng = np.random.default_rng((self.seed, step))
        shared = rng.integers(0, 1 << 63, (2, len(BLOCKS)), dtype=np.uint64)
        own = np.random.default_rng((self.seed, step, rank))
        # The noise scale is twice the batch of all ranks, however many there are.
        signal = 4.0 / (1 + 2 * self.ranks)
        averaged = signal + (4.0 - signal) / self.ranks
        record = SampledRecord(
            step=step,
            local_gradient_square=float(4.0 * own.lognormal(0, 0.1)),
            reduced_gradient_square=float(averaged * rng.lognormal(0, 0.1)),
            update_square=0.01,
            parameter_square=100.0,
            gradient_fingerprints=tuple(shared[0].tolist()),
            parameter_fingerprints=tuple(shared[1].tolist()),
            samples=8.0,
        )
        return self.sample_fault(step, rank, record) if self.sample_fault else record

    def batches(self) -> Iterator[tuple[float, int, RankBatch]]:
        """(seconds since the start, rank, batch), in the order of time."""
        made = self.columns()
        ends = np.cumsum(np.nan_to_num(made.step_seconds).max(axis=1))
        for low in range(0, self.steps, self.batch_steps):
            high = min(low + self.batch_steps, self.steps)
            for rank in range(self.ranks):
                self.sequence[rank] = self.sequence.get(rank, 0) + 1
                samples = (
                    tuple(
                        self.sample(int(step), rank)
                        for step in made.step[low:high]
                        if int(step) % self.sample_period == 0
                    )
                    if self.sample_period
                    else ()
                )
                batch = RankBatch(
                    sequence=self.sequence[rank], steps=made.block(rank, low, high), samples=samples
                )
                yield float(ends[high - 1]), rank, batch


def attach(analysis: RunAnalysis, job: Job, now: float) -> None:
    """All ranks say hello."""
    for rank in range(job.ranks):
        analysis.hello(now, job.hello(rank))


def play(
    analysis: RunAnalysis, job: Job, now: float = START, *, hello: bool = True, beats: bool = False
) -> float:
    """Hand a job's telemetry to an analysis, with a tick each second; return the time at the end."""
    if hello:
        attach(analysis, job, now)
    start, ticked = now, now
    for since, rank, batch in job.batches():
        now = start + since
        while ticked + 1.0 <= now:
            ticked += 1.0
            if beats:
                beat_all(analysis, job, ticked, Phase.FORWARD, last_step=-1)
            analysis.tick(ticked)
        analysis.batch(now, rank, job.incarnation + rank, batch)
    return now


def watched(job, waited, *, telling=True):
    """A job whose heartbeats, every 2 s, say how long training threads have waited for a CPU: `waited(seconds, rank)`."""
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    beaten = ticked = 0.0
    steps = job.columns()
    ends = np.cumsum(steps.step_seconds.max(axis=1))
    for since, rank, batch in job.batches():
        while ticked + 1.0 <= since:
            ticked += 1.0
            if ticked >= beaten + 2.0:
                beaten = ticked
                last = int(steps.step[max(np.searchsorted(ends, ticked) - 1, 0)])
                for each in range(job.ranks):
                    analysis.heartbeat(
                        START + ticked,
                        each,
                        job.incarnation + each,
                        RankHeartbeat(
                            phase=Phase.FORWARD,
                            phase_seconds=0.0,
                            last_step=last,
                            sent_seconds=START + ticked,
                            cpu_wait_seconds=waited(ticked, each) if telling else float("nan"),
                        ),
                    )
            analysis.tick(START + ticked)
        analysis.batch(START + since, rank, job.incarnation + rank, batch)
    return analysis


def beat_all(
    analysis: RunAnalysis,
    job: Job,
    now: float,
    phase: Phase | dict[int, Phase],
    *,
    last_step: int = -1,
    phase_seconds: float = 0.0,
    collectives: dict[int, int] | int = -1,
    stacks: dict[int, str] | None = None,
    flight_records: dict[int, str] | None = None,
    ranks: range | tuple[int, ...] | None = None,
) -> None:
    """A heartbeat of every rank."""
    for rank in ranks if ranks is not None else range(job.ranks):
        beat = RankHeartbeat(
            phase=phase if isinstance(phase, Phase) else phase[rank],
            phase_seconds=phase_seconds,
            last_step=last_step,
            collectives=collectives if isinstance(collectives, int) else collectives[rank],
            stack=(stacks or {}).get(rank, ""),
            flight_record=(flight_records or {}).get(rank, ""),
        )
        analysis.heartbeat(now, rank, job.incarnation + rank, beat)


RARE_ASSESSMENTS = AnalysisConfig(loss=LossConfig(dense_looks=8, look_spacing=0.2))
"""The loss is assessed a quarter as often as by default: it takes a third of the time of an analysis, and few tests are about it."""


def analyze(job: Job, config: AnalysisConfig = RARE_ASSESSMENTS) -> RunAnalysis:
    """A job from beginning to end, but for the goodbye."""
    analysis = RunAnalysis(job.run, config)
    play(analysis, job)
    return analysis


def finish(analysis: RunAnalysis, job: Job, now: float) -> None:
    """All ranks say goodbye."""
    for rank in range(job.ranks):
        analysis.goodbye(now, rank, job.incarnation + rank, "finished", job.first_step + job.steps - 1)


def kinds(analysis: RunAnalysis, *, learning: bool = False) -> set[str]:
    """Kinds of all findings so far; those about the loss only when asked for."""
    return {each.kind for each in analysis.findings() if learning or each.category != "learning"}


def one(analysis: RunAnalysis, kind: str):
    """The only finding of a kind."""
    (finding,) = [each for each in analysis.findings() if each.kind == kind]
    return finding


def restarted(job: Job, **changes: object) -> Job:
    """The next attempt of a job."""
    return replace(
        job,
        incarnation=job.incarnation + 1_000,
        restart_count=job.restart_count + 1,
        sequence={},
        **changes,
    )
