"""Runs a rule set and counts what it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from stallwatch.detector.core.learning import LossPoint
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import EvaluationObservation, RunDeclaration, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.views import RuleView
from stallwatch.detector.rules.sets import RULE_SETS, SageMakerRules


@dataclass(slots=True)
class RuleBook:
    """A signal without output: its rules look at everything, and it remembers when they held."""

    consumes: ClassVar[tuple[type, ...]] = (
        StepObservation,
        LossPoint,
        EvaluationObservation,
        SampledObservation,
        LivenessObservation,
        RunDeclaration,
    )

    config: str = "sagemaker"
    """Name of the rule set."""
    sagemaker: SageMakerRules = field(default_factory=SageMakerRules)
    hits: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.config not in RULE_SETS:
            raise ValueError(f"rules is {self.config!r}: the rule sets are {', '.join(RULE_SETS)}")

    def update(self, observation: object) -> Iterable[Any]:
        """Show one observation to every rule that looks at its kind."""
        for rule in self.sagemaker.rules():
            if isinstance(observation, rule.consumes):
                hit = rule.update(observation)
                if hit is not None:
                    self.hits[rule.name] = self.hits.get(rule.name, 0) + 1
                    self.first.setdefault(rule.name, hit.step)
                    self.last[rule.name], self.texts[rule.name] = hit.step, hit.text
        return ()

    def summary(self) -> tuple[RuleView, ...]:
        """Every rule of the set, in its order."""
        return tuple(
            RuleView(
                rule.name,
                self.hits.get(rule.name, 0),
                self.first.get(rule.name),
                self.last.get(rule.name),
                self.texts.get(rule.name, ""),
            )
            for rule in self.sagemaker.rules()
        )
