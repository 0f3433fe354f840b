"""The analysis of one run: what its ranks say in, findings and read models out.

Calls must come in the order in which things happened, `now` never decreasing; nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stallwatch.detector.analysis import accounting
from stallwatch.detector.analysis import view as views
from stallwatch.detector.analysis.align import Aligner
from stallwatch.detector.analysis.attempts import Place
from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.declaration import new_declaration
from stallwatch.detector.analysis.pipeline import Pipeline
from stallwatch.detector.analysis.ranks import RankTable
from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.analysis.state import RunState
from stallwatch.detector.core.family import Peer
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.inputs import Parallelism, RankBatch, RankHeartbeat, RankHello
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.observations import (
    AttemptObservation,
    EvaluationObservation,
    EventObservation,
    StepObservation,
)
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.scaling import NoiseScaleObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.views import EventView, RankView, RunView, StateSpan
from stallwatch.detector.diagnosis import DIAGNOSED, explain
from stallwatch.detector.rules import RuleBook
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.vitals import VitalsSignal

__all__ = ["AnalysisConfig", "RunAnalysis", "SeriesPoint"]


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
            others[hello.rank] = False
        place = state.attempt.place(hello, table.incarnation, int(np.count_nonzero(others)))
        if place is Place.STALE:
            return
        if place is Place.RESTARTS:
            self._restart(now, hello, frozenset(np.flatnonzero(others).tolist()))
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
        accounting.note_drops(state, rank, batch.dropped, by_gateway=batch.is_remains)
        if batch.steps is not None and batch.steps.step.size:
            self._make_room(now, int(batch.steps.step.max()))
        accepted = state.aligner.add(now, rank, batch, self.config.align)
        if batch.steps is not None and accepted.rows.size:
            accounting.count_steps(state, now, rank, batch.steps, accepted.rows)
            accounting.note_late(state, rank, batch.steps, accepted.rows)
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
        accounting.note_end(state, rank, last_step)
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
        state.findings.accrue(elapsed * live, kinds=accounting.STANDSTILL)
        total = state.hello.total_steps if state.hello else 0
        observation = state.ranks.observe(now, state.attempt.number, state.aligner.world_size, total)
        self._see(now, observation)
        self._conclude(now)

    def compare(self, now: float, family: tuple[Peer, ...]) -> None:
        """What other runs of the family look like now: findings about the loss are explained anew."""
        self._attend(now)
        self.state.family = family
        book = self.state.findings
        for kind, verdict in sorted(self.state.diagnosed.items()):
            if kind in book.active:
                book.apply(now, self._explain(verdict))

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
        view = views.run_view(self.state)
        rules = self.pipeline.signals.get("rules")
        return replace(view, rules=rules.summary()) if isinstance(rules, RuleBook) else view

    def ranks(self) -> tuple[RankView, ...]:
        """The read models of the ranks of the current attempt."""
        return views.rank_views(self.state)

    def events(self) -> tuple[EventView, ...]:
        """What changed while the run ran: the latest ones, by step."""
        return self.state.chronicle.events()

    def states(self) -> tuple[StateSpan, ...]:
        """The states that the run was called, the latest of them, oldest first."""
        return tuple(self.state.chronicle.states)

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
            if known == incarnation:
                # It did not say where it begins.
                table.next_step[rank] = -1
        return known == incarnation

    def _introduce(self, now: float, hello: RankHello) -> None:
        state = self.state
        state.ranks.attach(now, hello)
        world = max(hello.world_size, hello.rank + 1)
        if world > state.aligner.world_size or not state.aligner.watermark.size:
            state.aligner.resize(world)
        state.ranks.grow(state.aligner.world_size)
        state.aligner.resume(hello.rank)
        state.undeclared = True
        if state.hello is None or hello.rank <= state.hello.rank:
            state.hello = hello
            state.aligner.blocks = hello.blocks
            self.declare()
        if hello.parallelism is not Parallelism.UNSPECIFIED:
            state.aligner.parallelism = hello.parallelism

    def _restart(self, now: float, hello: RankHello, alive: frozenset[int]) -> None:
        """A new attempt: what belongs to the old processes is finished off and forgotten."""
        state = self.state
        for observation in state.aligner.drain(self.config.align, now, everything=True):
            self._see(now, observation)
        state.findings.restart(now, max(state.step, 0))
        state.steps_missing += int(views.missing_steps(state.ranks).sum())
        state.gaps.restart()
        state.attempt.begin(hello, state.ranks.incarnation, alive)
        state.ranks = RankTable()
        state.aligner = Aligner(attempt=state.attempt.number, announced=False, started_at=now)
        state.hello = state.declared = None
        state.hung = state.lost = False

    def _make_room(self, now: float, highest: int) -> None:
        """Emit what a batch far ahead pushes out of the window."""
        aligner = self.state.aligner
        window = self.config.align.window(aligner.world_size)
        if aligner.steps.used and highest - aligner.steps.base >= window:
            floor = highest - window
            aligner.expected &= aligner.watermark >= min(floor, aligner.steps.top)
            self._drain(now, floor)

    def _drain(self, now: float, floor: int | None = None) -> None:
        for observation in self.state.aligner.drain(self.config.align, now, floor=floor):
            self._see(now, observation)

    def _see(self, now: float, observation: object) -> None:
        """One observation: remember what the read models need, then ask signals and checks."""
        state = self.state
        if isinstance(observation, StepObservation):
            if state.undeclared and (declaration := new_declaration(state, observation.step)) is not None:
                self._see(now, declaration)
            accounting.remember_step(state, now, observation)
        elif isinstance(observation, EvaluationObservation):
            state.evaluation_loss = observation.loss
            state.series.evaluation(observation)
        elif isinstance(observation, SampledObservation):
            accounting.remember_sample(state, observation)
        elif isinstance(observation, EventObservation):
            state.chronicle.event(now, observation)
        elif isinstance(observation, AttemptObservation) and observation.attempt:
            state.chronicle.attempt(now, observation)
        for result in self.pipeline.feed(observation):
            if isinstance(result, Verdict):
                self._take(now, result)
            elif isinstance(result, LossAssessment):
                state.assessment = result
            elif isinstance(result, NoiseScaleObservation):
                accounting.remember_noise_scale(state, result)
        for kind in state.findings.take_spoiled():
            self.pipeline.renew(kind, self.config)

    def _take(self, now: float, verdict: Verdict) -> None:
        state = self.state
        if verdict.kind in DIAGNOSED:
            if verdict.firing:
                state.diagnosed[verdict.kind] = verdict
            else:
                state.diagnosed.pop(verdict.kind, None)
            verdict = state.suspicion.confirm(self._explain(verdict))
        elif verdict.kind == "non_finite":
            verdict = self._explain(verdict)
        finding = state.findings.apply(now, verdict)
        if verdict.kind == "hang":
            state.hung = verdict.firing
        elif verdict.kind == "rank_lost":
            state.lost = verdict.firing and verdict.severity is None
        if finding is not None:
            accounting.charge_onset(state, finding)

    def _explain(self, verdict: Verdict) -> Verdict:
        signal = self.pipeline.signals.get("vitals")
        if not isinstance(signal, VitalsSignal):
            return explain(verdict, None)
        vitals = replace(signal.vitals(), family=self.state.family)
        return explain(verdict, vitals, self.state.findings.select("firing"))

    def _conclude(self, now: float) -> None:
        """Bring the run's state up to date."""
        state = self.state
        if state.aligner.over and state.findings.active:
            table = state.ranks
            if bool(table.finished[table.attached].all()):
                for kind in accounting.STANDSTILL & state.findings.active.keys():
                    state.findings.apply(now, Verdict(kind=kind, firing=False, step=max(state.step, 0)))
        name, since = views.run_state(state)
        if name != state.state or not state.chronicle.states:
            state.chronicle.state(now, name, since, max(state.step, 0))
        if name != state.state or name != "finished":
            state.state, state.state_since_step = name, since
