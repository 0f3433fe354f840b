"""The verdict on a log: what the analysis would have said while the run was live."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stallwatch.detector.analysis.findings import FindingBook
from stallwatch.detector.checks.contract import Check
from stallwatch.detector.checks.learning import LEARNING_CHECKS
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.learning import LossAssessment, LossPoint
from stallwatch.detector.core.magnitudes import number_within, within
from stallwatch.detector.core.observations import AttemptObservation, EvaluationObservation
from stallwatch.detector.diagnosis import DIAGNOSED, STANDALONE_CHECKS, explain
from stallwatch.detector.diagnosis.suspicion import Suspicion
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress, no_progress
from stallwatch.detector.report.blocks import Block, blocks
from stallwatch.detector.report.outcome import Look, Outcome, StateEntry
from stallwatch.detector.report.positions import Positions
from stallwatch.detector.rules import RuleBook
from stallwatch.detector.signals.loss import LossConfig, LossSignal
from stallwatch.detector.signals.vitals import VitalsSignal

_PROGRESS_POINTS = 1000
# A run of so many times the fewest steps that a plateau takes is one that somebody would train.
_SHORTEST_RUN = 10
# One or two losses that are not finite are skipped by any loss scaler; as many as this in a row are no accident.
_BROKEN_POINTS = 3


def replay(
    log: TrainingLog,
    *,
    total_steps: int | None = None,
    rules: str = "",
    progress: Progress = no_progress,
) -> Outcome:
    """Feed the log through the loss model and the checks of learning, in its order; and through a rule set, if asked for."""
    positions = Positions.of(log)
    config = LossConfig(total_steps=total_steps)
    if not _counts_optimizer_steps(log, positions, config.fewest_steps):
        config = replace(config, fewest_steps=0)
    analysis = _Analysis(
        log, positions, LossSignal(config=config), rules=RuleBook(config=rules) if rules else None
    )
    # What a loss of 1e60 does to a fit is seen in the verdict; numpy's own word on it helps nobody.
    with np.errstate(all="ignore"):
        analysis.run(progress)
    return analysis.outcome()


def _counts_optimizer_steps(log: TrainingLog, positions: Positions, fewest: int) -> bool:
    """Whether a step of the log is one of the optimizer; a log of some dozens of "steps" counts epochs or records."""
    steps = log.points.step
    named = positions.unit == "step" and "step" in log.columns
    return named and steps.size > 0 and float(steps.max() - steps.min()) >= _SHORTEST_RUN * fewest


def _evaluations(log: TrainingLog, positions: Positions) -> Iterator[tuple[int, EvaluationObservation]]:
    evaluations = log.evaluations
    steps = positions.encode(evaluations.step)
    for index, row in enumerate(evaluations.row.tolist()):
        metrics = {
            name: number_within(float(values[index]))
            for name, values in evaluations.metrics.items()
            if not math.isnan(values[index])
        }
        loss = number_within(float(evaluations.loss[index]))
        yield row, EvaluationObservation(int(steps[index]), loss, 1.0, metrics)


def _checks() -> list[Check]:
    """What can be decided from a log: learning, and causes that stand for themselves."""
    checks: dict[str, Any] = {**LEARNING_CHECKS, **STANDALONE_CHECKS}
    return [check() for check in checks.values()]


@dataclass(slots=True)
class _Analysis:
    """The analysis of one log, under way."""

    log: TrainingLog
    positions: Positions
    signal: LossSignal
    checks: list[Check] = field(default_factory=_checks)
    vitals: VitalsSignal = field(default_factory=VitalsSignal)
    rules: RuleBook | None = None
    book: FindingBook = field(init=False)
    suspicion: Suspicion = field(default_factory=Suspicion)
    by_type: dict[type, list[Check]] = field(default_factory=dict)
    states: list[StateEntry] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    final: LossAssessment | None = None
    reached: int = -1
    broken_since: float | None = None
    """Where the loss stopped being finite; None while it is."""
    broken_points: int = 0

    def __post_init__(self) -> None:
        self.book = FindingBook(run=self.log.name)
        steps = self.log.points.step
        first = float(steps[0]) if steps.size else 0.0
        self.states.append(
            StateEntry("warming_up", first, first, "Too few points yet to say where the loss goes.")
        )
        for check in self.checks:
            for consumed in check.consumes:
                self.by_type.setdefault(consumed, []).append(check)

    def run(self, progress: Progress) -> None:
        """Points of the judged series and evaluations, in the order of the log, with a new attempt where steps go back."""
        points = self.log.points
        points = replace(points, loss=within(points.loss))
        evaluations = deque(_evaluations(self.log, self.positions) if self.log.judged == "loss" else ())
        attempt, fed = 0, 0
        for block in blocks(points, self.positions.encode(points.step), lambda: self.signal.next_look):
            while evaluations and evaluations[0][0] < block.row:
                self._evaluated(evaluations.popleft()[1])
            if block.step < self.reached:
                attempt += 1
                self._restart(AttemptObservation(block.step, attempt, 1))
            self.reached = block.step
            self._point(block)
            fed += block.points
            if fed >= _PROGRESS_POINTS:
                progress(fed)
                fed = 0
        for _, evaluation in evaluations:
            self._evaluated(evaluation)

    def _evaluated(self, evaluation: EvaluationObservation) -> None:
        """The loss model takes it as a second opinion, as it does live."""
        if self.rules is not None:
            self.rules.update(evaluation)
        for look in self.signal.update(evaluation):
            self._assessed(look)
            self._check(look)
        self._check(evaluation)

    def _point(self, block: Block) -> None:
        """Signals first, then the checks on what they derived, then the checks on the point itself."""
        rate = None if math.isnan(block.learning_rate) else block.learning_rate
        point = LossPoint(block.step, block.loss, float(block.points), rate)
        self._follow_broken(point)
        self.vitals.update(point)
        if self.rules is not None:
            self.rules.update(point)
        for look in self.signal.update(point):
            self._assessed(look)
            self._check(look)
        # A mean of neighbours says nothing of single points, and the checks of those need not see it.
        if block.points == 1:
            self._ask(point)

    def _follow_broken(self, point: LossPoint) -> None:
        """A loss that stays not finite has diverged; the loss model has no level to say so from."""
        if math.isfinite(point.loss):
            self.broken_since, self.broken_points = None, 0
            return
        self.broken_points += 1
        at = self.positions.decode(point.step)
        self.broken_since = at if self.broken_since is None else self.broken_since
        if self.broken_points == _BROKEN_POINTS and self.states[-1].state != "diverging":
            self.states.append(StateEntry("diverging", at, self.broken_since, self._broken()))

    def _broken(self) -> str:
        return f"The loss has not been a finite number since {self.log.axis} {self.broken_since:,.6g}."

    def _restart(self, attempt: AttemptObservation) -> None:
        for look in self.signal.update(attempt):
            self._check(look)
        self.book.restart(0.0, attempt.step)
        self._check(attempt)

    def _check(self, observation: object) -> None:
        for vitals in self.vitals.update(observation):
            self._ask(vitals)
        self._ask(observation)

    def _ask(self, observation: object) -> None:
        for check in self.by_type.get(type(observation), ()):
            verdict = check.update(observation)
            if verdict is None:
                continue
            if verdict.kind in DIAGNOSED:
                explained = explain(verdict, self.vitals.vitals(), self.book.select("firing"))
                verdict = self.suspicion.confirm(explained)
            self.book.apply(0.0, verdict)

    def _assessed(self, look: LossAssessment) -> None:
        at = self.positions.decode(look.step)
        self.final = look
        self.looks.append(Look(at, look.level))
        if self.states[-1].state != look.state:
            since = self.positions.decode(look.since_step)
            self.states.append(StateEntry(look.state, at, since, self.positions.words(look.reason)))

    def outcome(self) -> Outcome:
        """What there is to say at the end of the log."""
        self.book.step(0.0, max(self.reached, 0))
        final, horizon_end, reason = self.final, None, self._too_little()
        if self.broken_points >= _BROKEN_POINTS:
            reason = self._broken()
        elif final is not None:
            reason = self.positions.words(final.reason)
            if final.forecast is not None:
                horizon_end = self.positions.decode(final.step + final.forecast.horizon_steps)
        return Outcome(
            log=self.log,
            states=tuple(self.states),
            findings=tuple(self._located(finding) for finding in self.book.select("all")),
            final=final,
            final_step=self.positions.decode(final.step) if final is not None else 0.0,
            horizon_end=horizon_end,
            looks=tuple(self.looks),
            summary_reason=reason,
            rules=self.rules.summary() if self.rules is not None else (),
        )

    def _too_little(self) -> str:
        finite = int(np.isfinite(self.log.points.loss).sum())
        counted = "1 point" if finite == 1 else f"{finite} points"
        return f"{counted} of a finite loss: too few to say whether the run learns."

    def _located(self, finding: Finding) -> Finding:
        """The finding in words and places of the axis."""
        decode, words = self.positions.decode, self.positions.words
        resolved = finding.resolved_step
        return replace(
            finding,
            since_step=_whole(decode(finding.since_step)),
            detected_step=_whole(decode(finding.detected_step)),
            resolved_step=None if resolved is None else _whole(decode(resolved)),
            reason=words(finding.reason),
            advice=tuple(words(advice) for advice in finding.advice),
            causes=tuple(replace(cause, reason=words(cause.reason)) for cause in finding.causes),
        )


def _whole(step: float) -> int:
    # A finding's steps are whole numbers in the contract; on an axis of parts of epochs this is the epoch.
    return math.floor(step)
