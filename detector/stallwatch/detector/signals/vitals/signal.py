"""The signal: every observation goes to its trackers, every look at the loss brings out the vitals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.core.learning import LossAssessment, LossPoint
from stallwatch.detector.core.observations import (
    AttemptObservation,
    EvaluationObservation,
    EventObservation,
    NamedLossObservation,
    RunDeclaration,
    StepObservation,
)
from stallwatch.detector.core.sampled import DirectionObservation, SampledObservation
from stallwatch.detector.core.scaling import NoiseScaleObservation
from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.signals.vitals.data import DataTracker
from stallwatch.detector.signals.vitals.named import NamedTracker
from stallwatch.detector.signals.vitals.optimization import OptimizationTracker
from stallwatch.detector.signals.vitals.past import PastTracker, RateTracker
from stallwatch.detector.signals.vitals.scales import ScaleTracker

_SAMPLES_A_LOOK = 8
"""Sampled steps after which the vitals are looked at, also while no look at the loss is due."""


@dataclass(slots=True)
class VitalsSignal:
    """Gathers what causes are weighed by. Its memory does not grow with the run."""

    consumes: ClassVar[tuple[type, ...]] = (
        StepObservation,
        LossPoint,
        SampledObservation,
        DirectionObservation,
        NamedLossObservation,
        EvaluationObservation,
        EventObservation,
        AttemptObservation,
        RunDeclaration,
        NoiseScaleObservation,
        LossAssessment,
    )

    optimization: OptimizationTracker = field(default_factory=OptimizationTracker)
    scales: ScaleTracker = field(default_factory=ScaleTracker)
    rate: RateTracker = field(default_factory=RateTracker)
    named: NamedTracker = field(default_factory=NamedTracker)
    past: PastTracker = field(default_factory=PastTracker)
    data: DataTracker = field(default_factory=DataTracker)
    noise: NoiseScaleObservation | None = None
    assessment: LossAssessment | None = None
    declaration: RunDeclaration | None = None
    attempt: int = 0
    world_size: int = 1
    first_step: int = -1
    step: int = -1
    samples: int = 0
    """Sampled steps since the latest look."""

    def update(self, observation: object) -> Iterable[Vitals]:
        """Take one observation; return the vitals when a look is due."""
        if isinstance(observation, StepObservation):
            self._step(observation)
        elif isinstance(observation, LossPoint):
            self._point(observation)
        elif isinstance(observation, SampledObservation):
            return self._sample(observation)
        elif isinstance(observation, DirectionObservation):
            self.optimization.turn(observation)
        elif isinstance(observation, LossAssessment):
            self.assessment = observation
            return (self._look(),)
        else:
            self._other(observation)
        return ()

    def _step(self, step: StepObservation) -> None:
        self._at(step.step)
        self.world_size = step.world_size
        if step.learning_rates:
            self.rate.take(step.step, step.learning_rates[0])
        self.scales.take(step)
        self.data.take(step)
        if (step.samples > 0).any():
            self.past.loss(step.step, step.mean_loss())

    def _point(self, point: LossPoint) -> None:
        self._at(point.step)
        if point.learning_rate is not None:
            self.rate.take(point.step, point.learning_rate)
        self.past.loss(point.step, point.loss)

    def _at(self, step: int) -> None:
        self.step = step
        if self.first_step < 0:
            self.first_step = step

    def _sample(self, sample: SampledObservation) -> Iterable[Vitals]:
        trainable = self.declaration.trainable_parameters if self.declaration else 0
        self.optimization.take(sample, self.rate.tracker.current, trainable, self.scales.loss_scale)
        self.data.sample(sample)
        known = sample.optimizer_state_step[sample.optimizer_state_step >= 0]
        if known.size:
            self.past.sample(sample.step, int(known.min()))
        self.samples += 1
        return (self._look(),) if self.samples >= _SAMPLES_A_LOOK else ()

    def _other(self, observation: object) -> None:
        if isinstance(observation, NamedLossObservation):
            self.named.take(observation)
        elif isinstance(observation, EvaluationObservation):
            self.named.evaluate(observation)
        elif isinstance(observation, EventObservation):
            self.past.note(observation)
        elif isinstance(observation, NoiseScaleObservation):
            self.noise = observation
        elif isinstance(observation, RunDeclaration):
            self.declaration = observation
        elif isinstance(observation, AttemptObservation):
            self.attempt, self.world_size = observation.attempt, observation.world_size
            self.past.restart(observation)
            self.scales = ScaleTracker(loss_scale_peak=self.scales.loss_scale_peak)
            self.noise = None

    def _look(self) -> Vitals:
        self.samples = 0
        return self.vitals()

    def vitals(self) -> Vitals:
        """All that is known now."""
        loss = self.assessment
        stopped = loss is not None and loss.state in ("plateau", "oscillating", "diverging", "slow")
        end = loss.since_step if loss is not None and stopped else self.step
        until = self.first_step + (end - self.first_step) / 2
        size = self.declaration.dataset_size if self.declaration else 0
        return Vitals(
            step=self.step,
            attempt=self.attempt,
            world_size=self.world_size,
            effective_batch=self.data.batch,
            loss=loss,
            optimization=self.optimization.vitals(until),
            scaling=self.scales.vitals(),
            rate=self.rate.vitals(),
            noise=self.noise,
            evaluation=self.named.evaluation_vitals(),
            metrics=self.named.vitals(self.named.metrics, by_level=True),
            groups=self.named.vitals(self.named.groups, by_level=False),
            components=self.named.vitals(self.named.components, by_level=True),
            data=self.data.vitals(size, until),
            events=tuple(self.past.events),
            restarts=tuple(self.past.restarts),
            shifts=tuple(self.past.shifts),
            declaration=self.declaration,
            evidence_from=self.first_step,
            loss_start=self.past.loss_start,
            course=self.past.points(),
        )
