"""Evaluation and training loss disagree about whether the model still learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.core.learning import STOPPED_STATES, LossAssessment
from stallwatch.detector.core.observations import EvaluationObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict
from stallwatch.detector.signals.evaluations import Evaluations, EvaluationSeries


@dataclass(frozen=True, slots=True)
class EvalPlateauConfig:
    """Settings of the evaluation-plateau check."""

    minimum_evaluations: int = 10
    """Evaluations before anything is said."""
    window_share: float = 0.5
    """The latest share of the run that is judged."""
    flat_share: float = 0.02
    """A change over that window below this share of the series' own range is flat."""
    confidence: float = 0.95
    """How sure each side of the disagreement must be."""
    persistence: int = 2
    """Evaluations in a row that must agree."""

    def __post_init__(self) -> None:
        if self.minimum_evaluations < 8:
            raise ValueError(f"minimum_evaluations must be at least 8, not {self.minimum_evaluations}")
        if not 0 < self.window_share < 1 or not 0 < self.flat_share < 1:
            raise ValueError("window_share and flat_share must lie between 0 and 1")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, not {self.confidence}")
        if self.persistence < 1:
            raise ValueError(f"persistence must be at least 1, not {self.persistence}")


@dataclass(slots=True)
class EvalPlateau:
    """Finds one of three disagreements between training and evaluation.

    Evaluation flat while training falls, the reverse, or a flat loss while a logged metric still moves on as so far.

    Which way a metric is good it does not know: it takes the direction in which the metric has gone since the start.
    """

    kind: ClassVar[str] = "eval_plateau"
    consumes: ClassVar[tuple[type, ...]] = (LossAssessment, EvaluationObservation)

    config: EvalPlateauConfig = field(default_factory=EvalPlateauConfig)
    evaluations: Evaluations = field(default_factory=Evaluations)
    training_state: str = "warming_up"
    training_falls: bool = False
    training_since: int = 0
    looks: int = 0
    disagreement: str = ""
    firing: bool = False

    def update(self, observation: object) -> Verdict | None:
        """Remember the training state; judge at each evaluation."""
        if isinstance(observation, LossAssessment):
            self.training_state = observation.state
            self.training_since = observation.since_step
            learning = observation.state in {"improving", "slow"}
            self.training_falls = learning and observation.confidence >= self.config.confidence
            return None
        if not isinstance(observation, EvaluationObservation) or not self.evaluations.take(observation):
            return None
        series = self.evaluations.loss
        if len(series) < self.config.minimum_evaluations:
            return None
        found = self._disagreement(series)
        self.looks = self.looks + 1 if found and found == self.disagreement else int(bool(found))
        self.disagreement = found
        was, self.firing = self.firing, self.looks >= self.config.persistence
        if not self.firing and not was:
            return None
        return self._verdict(observation.step, series)

    def _disagreement(self, series: EvaluationSeries) -> str:
        if self.training_falls and self._flat(series):
            return "evaluation"
        if self.training_state == "plateau":
            if self._moves(series, falling=True):
                return "training"
            for name, metric in sorted(self.evaluations.metrics.items()):
                if len(metric) >= self.config.minimum_evaluations and self._moves(metric, falling=None):
                    return f"metric {name}"
        return ""

    def _start(self, series: EvaluationSeries) -> float:
        return series.steps[-1] - self.config.window_share * (series.steps[-1] - series.steps[0])

    def _flat(self, series: EvaluationSeries) -> bool:
        """Whether the change over the window surely stays below what matters."""
        trend = series.trend_since(self._start(series))
        if trend is None:
            return False
        low, _ = trend.interval(2 * self.config.confidence - 1)
        material = self.config.flat_share * (max(series.values) - min(series.values))
        noise_allowed = max(material, trend.residual / 2)
        return -low * trend.span < noise_allowed

    def _moves(self, series: EvaluationSeries, *, falling: bool | None) -> bool:
        """Whether the series surely still moves: down, or on in its own direction."""
        trend = series.trend_since(self._start(series))
        if trend is None:
            return False
        sign = -1.0 if falling or (falling is None and series.values[-1] < series.values[0]) else 1.0
        low, high = (sign * bound for bound in trend.interval(2 * self.config.confidence - 1))
        material = self.config.flat_share * (max(series.values) - min(series.values))
        return min(low, high) > 0 and sign * trend.slope * trend.span > material

    def _verdict(self, step: int, series: EvaluationSeries) -> Verdict:
        level = series.values[-1]
        since = round(self._start(series)) if self.disagreement == "evaluation" else self.training_since
        words = {
            "evaluation": f"The evaluation loss has been flat at {level:.4g} while the training loss still falls.",
            "training": f"The training loss is flat while the evaluation loss still falls, now {level:.4g}.",
        }
        name = self.disagreement.removeprefix("metric ")
        reason = words.get(
            self.disagreement,
            f"The loss is flat since step {self.training_since:,} while {name} still improves, now {level:.4g}.",
        )
        if not self.firing:
            reason = f"Evaluation and training loss agree again at step {step:,}."
        advice: tuple[str, ...] = ()
        if self.firing and self.disagreement == "evaluation":
            advice = (
                f"Compare with the checkpoint of step {since:,}: training since then did not help evaluation.",
                "Try regularisation, more data, or a lower learning rate before training on.",
            )
        elif self.firing:
            advice = (
                f"Do not stop on the training loss alone: {'evaluation' if name == 'training' else name} improves.",
            )
        evidence: dict[str, EvidenceValue] = {
            "evaluation_loss": level,
            "training_state": self.training_state,
            "disagreement": self.disagreement,
            "stopped": self.training_state in STOPPED_STATES,
        }
        return Verdict(
            kind=self.kind,
            firing=self.firing,
            step=step,
            since_step=max(since, 0),
            confidence=self.config.confidence,
            score=float(self.looks),
            threshold=float(self.config.persistence - 1),
            reason=reason,
            evidence=evidence,
            advice=advice,
        )
