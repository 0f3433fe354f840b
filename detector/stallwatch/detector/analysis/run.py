"""The analysis of one run: what its ranks say in, findings and read models out.

Calls must come in the order in which things happened, `now` never decreasing; nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.analysis import view as views
from stallwatch.detector.analysis.align import Aligner
from stallwatch.detector.analysis.attempts import Place
from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.pipeline import Pipeline
from stallwatch.detector.analysis.ranks import RankTable
from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.analysis.state import RunState
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.inputs import Parallelism, RankBatch, RankHeartbeat, RankHello, StepBlock
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.observations import EvaluationObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.views import STEP_PHASES, STEP_SECONDS_BUCKETS, RankView, RunView
from stallwatch.detector.signals.loss import LossSignal

__all__ = ["AnalysisConfig", "RunAnalysis", "SeriesPoint"]

_BUCKETS = np.array(STEP_SECONDS_BUCKETS)
_BATCH_SIZES = 32
_STANDSTILL = frozenset({"hang", "rank_lost"})
"""Findings whose cost is wall time, for no steps pass."""


class RunAnalysis:
    """One run: aligns its ranks, runs signals and checks, keeps findings, series and read models."""

    def __init__(self, run: str, config: AnalysisConfig | None = None) -> None:
        self.config = config or AnalysisConfig()
        self.state = RunState(run=run)
        self.state.findings.run = run
        self.pipeline = Pipeline.build(self.config)

    # Inputs

    def hello(self, now: float, hello: RankHello) -> None:
        """A rank process opened its stream."""
        self._attend(now)
        state = self.state
        state.updated_at = now
        table = state.ranks
        others = table.attached & ~table.finished & table.connected
        if hello.rank < table.size:
            others = others.copy()
            others[hello.rank] = False
        place = state.attempt.place(hello, table.incarnation, int(np.count_nonzero(others)))
        if place is Place.STALE:
            return
        if place is Place.RESTARTS:
            self._restart(now, hello)
        elif place is Place.REPLACES:
            state.attempt.replaced.add(hello.rank)
        if place is Place.JOINS and not state.ranks.incarnation:
            state.attempt.first_step = hello.first_step
            state.aligner.started_at = now
        state.attempt.take(hello)
        self._introduce(now, hello)

    def batch(self, now: float, rank: int, incarnation: int, batch: RankBatch) -> bool:
        """A rank's telemetry; False when it was taken before, and nothing but the count of duplicates changed."""
        self._attend(now)
        state = self.state
        if not state.ledger.accept(rank, incarnation, batch.sequence):
            state.duplicate_batches += 1
            if rank < state.ranks.size:
                state.ranks.duplicate_batches[rank] += 1
            return False
        if not self._is_current(now, rank, incarnation):
            return True
        state.updated_at = now
        table = state.ranks
        table.seen_at[rank] = now
        table.connected[rank] = True
        table.gone_at[rank] = 0.0
        for dropped in batch.dropped:
            state.dropped[dropped.reason] = state.dropped.get(dropped.reason, 0) + dropped.count
            table.dropped_steps[rank] += dropped.count
        if batch.steps is not None and batch.steps.step.size:
            self._make_room(now, int(batch.steps.step.max()))
        accepted = state.aligner.add(now, rank, batch, self.config.align)
        if batch.steps is not None and accepted.rows.size:
            self._account(now, rank, batch.steps, accepted.rows)
        table.duplicate_steps[rank] += accepted.duplicate
        self._drain(now)
        return True

    def heartbeat(self, now: float, rank: int, incarnation: int, beat: RankHeartbeat) -> None:
        """A sign of life, and what the rank is doing."""
        self._attend(now)
        if self._is_current(now, rank, incarnation):
            self.state.updated_at = now
            self.state.ranks.beat(now, rank, beat)

    def goodbye(self, now: float, rank: int, incarnation: int, reason: str, last_step: int) -> None:
        """A rank's agent ends on purpose: it has sent all it had."""
        self._attend(now)
        if not self._is_current(now, rank, incarnation):
            return
        state = self.state
        state.updated_at = now
        table = state.ranks
        table.move(now, rank, last_step)
        table.seen_at[rank] = now
        table.finished[rank] = True
        table.connected[rank] = False
        table.gone_at[rank] = 0.0
        table.endings[rank] = reason
        state.aligner.finish(rank)
        self._drain(now)
        self._conclude(now)

    def disconnect(self, now: float, rank: int, incarnation: int, reason: str) -> None:
        """A rank's stream ended without a goodbye."""
        self._attend(now)
        table = self.state.ranks
        if table.incarnation.get(rank) != incarnation or table.finished[rank] or not table.connected[rank]:
            return
        table.connected[rank] = False
        table.gone_at[rank] = now
        table.endings[rank] = reason

    def tick(self, now: float) -> None:
        """Time has passed: about once a second."""
        self._attend(now)
        state = self.state
        state.aligner.release_late(now, self.config.align)
        self._drain(now)
        elapsed = max(now - state.ticked_at, 0.0) if state.ticked_at else 0.0
        state.ticked_at = now
        if not state.ranks.incarnation:
            return
        live = int(np.count_nonzero(state.ranks.attached & ~state.ranks.finished))
        state.findings.accrue(elapsed * live, kinds=_STANDSTILL)
        total = state.hello.total_steps if state.hello else 0
        observation = state.ranks.observe(now, state.attempt.number, state.aligner.world_size, total)
        self._see(now, observation)
        self._conclude(now)

    def accepted_sequence(self, rank: int, incarnation: int) -> int:
        """Highest batch sequence taken from this process; 0 when none was."""
        return self.state.ledger.get(rank, incarnation)

    # Outputs

    def changes(self) -> tuple[Finding, ...]:
        """Findings that changed since the last call."""
        return self.state.findings.take_changes()

    def findings(self, status: str = "all") -> tuple[Finding, ...]:
        """Findings that are `firing`, `resolved`, or `all`; oldest first."""
        return self.state.findings.select(status)

    def view(self) -> RunView:
        """The run's read model."""
        return views.run_view(self.state)

    def ranks(self) -> tuple[RankView, ...]:
        """The read models of the ranks of the current attempt."""
        return views.rank_views(self.state)

    def series_names(self) -> tuple[str, ...]:
        """Names that `series` knows."""
        return self.state.series.names()

    def series(self, name: str, from_step: int | None, to_step: int | None, points: int) -> list[SeriesPoint]:
        """At most `points` points of a series; empty when it has none."""
        return self.state.series.query(name, from_step, to_step, points)

    def settle(self) -> None:
        """Give back room that is not needed, before a snapshot; nothing that comes out changes."""
        self.state.series.flush()
        self.state.aligner.steps.compact()

    def declare(self) -> None:
        """Tell the loss model how long the run is meant to be, unless the settings say so."""
        total = self.state.hello.total_steps if self.state.hello else 0
        signal = self.pipeline.signals.get("loss")
        if isinstance(signal, LossSignal):
            declared = total if total > 0 else None
            wanted = (
                self.config.loss
                if self.config.loss.total_steps
                else replace(self.config.loss, total_steps=declared)
            )
            signal.config = wanted

    @property
    def failures(self) -> dict[str, str]:
        """Signals and checks that raised, by name, with their last error: each is a defect, and silent here."""
        return dict(self.pipeline.failures)

    # Inside

    def _attend(self, now: float) -> None:
        """Follow the time; a long gap is the detector's own absence, in which no rank's clock runs."""
        state = self.state
        gap = now - state.now if state.now else 0.0
        if gap > self.config.attentive_seconds:
            state.ranks.shift(gap)
            state.aligner.shift(gap)
            state.ticked_at = now
        state.now = max(now, state.now)

    def _is_current(self, now: float, rank: int, incarnation: int) -> bool:
        """Whether this process speaks for its rank now; one that never said hello is introduced by what is known."""
        table = self.state.ranks
        known = table.incarnation.get(rank)
        if known is None and incarnation > self.state.attempt.previous.get(rank, -1):
            world = max(rank + 1, self.state.aligner.world_size)
            self.hello(
                now, RankHello(run=self.state.run, rank=rank, world_size=world, incarnation=incarnation)
            )
            known = table.incarnation.get(rank)
        return known == incarnation

    def _introduce(self, now: float, hello: RankHello) -> None:
        state = self.state
        state.ranks.attach(now, hello)
        world = max(hello.world_size, hello.rank + 1)
        if world > state.aligner.world_size or not state.aligner.watermark.size:
            state.aligner.resize(world)
        state.ranks.grow(state.aligner.world_size)
        state.aligner.resume(hello.rank)
        if state.hello is None or hello.rank <= state.hello.rank:
            state.hello = hello
            state.aligner.blocks = hello.blocks
            self.declare()
        if hello.parallelism is not Parallelism.UNSPECIFIED:
            state.aligner.parallelism = hello.parallelism

    def _restart(self, now: float, hello: RankHello) -> None:
        """A new attempt: what belongs to the old processes is finished off and forgotten."""
        state = self.state
        for observation in state.aligner.drain(self.config.align, now, everything=True):
            self._see(now, observation)
        state.findings.restart(now, max(state.step, 0))
        state.steps_missing += int(views.missing_steps(state.ranks).sum())
        state.attempt.begin(hello, state.ranks.incarnation)
        state.ranks = RankTable()
        state.aligner = Aligner(attempt=state.attempt.number, announced=False, started_at=now)
        state.hello = None
        state.hung = state.lost = False

    def _make_room(self, now: float, highest: int) -> None:
        """Emit what a batch far ahead pushes out of the window."""
        aligner = self.state.aligner
        window = self.config.align.window(aligner.world_size)
        if aligner.steps.used and highest - aligner.steps.base >= window:
            floor = highest - window
            aligner.expected &= aligner.watermark >= min(floor, aligner.steps.top)
            self._drain(now, floor)

    def _account(self, now: float, rank: int, steps: StepBlock, fresh: NDArray[np.bool_]) -> None:
        """Count a rank's new steps, and remember the latest of their numbers."""
        count = int(np.count_nonzero(fresh))
        if not count:
            return
        state, table = self.state, self.state.ranks
        state.steps_received += count
        table.steps[rank] += count
        numbers = steps.step[fresh]
        first = int(numbers.min())
        table.first_step[rank] = (
            first if table.first_step[rank] < 0 else min(first, int(table.first_step[rank]))
        )
        last = int(np.flatnonzero(fresh)[-1])
        highest = int(numbers.max())
        table.last_received[rank] = max(highest, int(table.last_received[rank]))
        table.move(now, rank, highest)
        if steps.samples[last] > 0:
            table.loss[rank] = steps.loss_sum[last] / steps.samples[last]
        table.step_seconds[rank] = _typical(steps.step_seconds, fresh)
        table.sync_seconds[rank] = _typical(steps.sync_seconds, fresh)
        table.input_seconds[rank] = _typical(steps.input_seconds, fresh)
        for phase in STEP_PHASES:
            seconds = getattr(steps, f"{phase}_seconds")
            seconds = seconds[fresh] if seconds.size == fresh.size else seconds
            seconds = seconds[seconds >= 0]
            if seconds.size:
                bins = np.searchsorted(_BUCKETS, seconds)
                state.phase_counts[phase] += np.bincount(bins, minlength=len(STEP_SECONDS_BUCKETS) + 1)
                state.phase_seconds[phase] += float(seconds.sum())

    def _drain(self, now: float, floor: int | None = None) -> None:
        for observation in self.state.aligner.drain(self.config.align, now, floor=floor):
            self._see(now, observation)

    def _see(self, now: float, observation: object) -> None:
        """One observation: remember what the read models need, then ask signals and checks."""
        state = self.state
        if isinstance(observation, StepObservation):
            self._remember_step(now, observation)
        elif isinstance(observation, EvaluationObservation):
            state.evaluation_loss = observation.loss
            state.series.evaluation(observation)
        elif isinstance(observation, SampledObservation):
            self._remember_sample(observation)
        for result in self.pipeline.feed(observation):
            if isinstance(result, Verdict):
                self._take(now, result)
            elif isinstance(result, LossAssessment):
                state.assessment = result

    def _remember_step(self, now: float, observation: StepObservation) -> None:
        state = self.state
        state.step = observation.step
        state.series.step(observation)
        seconds = observation.step_seconds
        typical = float(seconds[seconds.size // 2])
        typical = typical if typical > 0 else 0.0
        state.clock.add(observation.step, typical)
        if state.findings.active:
            state.findings.accrue(typical * observation.world_size, without=_STANDSTILL)
        samples = float(observation.samples.sum())
        if samples > 0:
            state.batch_sizes.append(samples * observation.world_size / len(observation.ranks))
            if len(state.batch_sizes) > _BATCH_SIZES:
                del state.batch_sizes[0]
        if observation.learning_rates:
            state.learning_rate = observation.learning_rates[0]
        state.loss = observation.mean_loss()
        if state.findings.withheld:
            for finding in state.findings.step(now, observation.step):
                self._charge_onset(finding)

    def _remember_sample(self, observation: SampledObservation) -> None:
        state = self.state
        state.series.sampled(observation)
        state.noise_scale.update(observation)
        scale = state.noise_scale.estimate()
        if scale is not None:
            state.series.add("gradient_noise_scale", observation.step, scale)
        state.gradient_norm_local = views.norm(observation.local_gradient_square)
        state.gradient_norm_reduced = views.norm(observation.reduced_gradient_square)

    def _take(self, now: float, verdict: Verdict) -> None:
        state = self.state
        finding = state.findings.apply(now, verdict)
        if verdict.kind == "hang":
            state.hung = verdict.firing
        elif verdict.kind == "rank_lost":
            state.lost = verdict.firing and verdict.severity is None
        if finding is not None:
            self._charge_onset(finding)

    def _charge_onset(self, finding: Finding) -> None:
        """What the finding has cost between its onset and the moment it was called."""
        state = self.state
        if finding.kind in _STANDSTILL:
            table = state.ranks
            live = table.attached & ~table.finished
            if live.any():
                waited = max(state.now - float(table.moved_at[live].max()), 0.0)
                state.findings.stalled_seconds[finding.kind] += waited * int(np.count_nonzero(live))
        else:
            state.findings.stalled_seconds[finding.kind] += (
                state.clock.since(finding.since_step) * state.aligner.world_size
            )

    def _conclude(self, now: float) -> None:
        """Bring the run's state up to date."""
        state = self.state
        if state.aligner.over and state.findings.active:
            table = state.ranks
            if bool(table.finished[table.attached].all()):
                for kind in _STANDSTILL & state.findings.active.keys():
                    state.findings.apply(now, Verdict(kind=kind, firing=False, step=max(state.step, 0)))
        name, since = views.run_state(state)
        if name != state.state:
            state.state, state.state_since_step = name, since


def _typical(column: NDArray[np.float64], fresh: NDArray[np.bool_]) -> float:
    """The median of a rank's new values."""
    if column.size != fresh.size:
        return float("nan")
    values = np.sort(column[fresh])
    return float(values[values.size // 2])
