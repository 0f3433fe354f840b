"""All settings of the analysis of a run, each check's nested under its name."""

from __future__ import annotations

from dataclasses import dataclass, field

from stallwatch.detector.analysis.align import AlignConfig
from stallwatch.detector.checks import CheckConfigs
from stallwatch.detector.diagnosis import STANDALONE_CHECKS, StandaloneConfig
from stallwatch.detector.rules import RULE_SETS
from stallwatch.detector.signals.loss_config import LossConfig
from stallwatch.detector.signals.noise_scale import NoiseScaleConfig


@dataclass(frozen=True, slots=True)
class AnalysisConfig:
    """Frozen: a restored analysis is given its settings anew."""

    align: AlignConfig = field(default_factory=AlignConfig)
    """How long ranks wait for each other."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss model."""
    noise_scale: NoiseScaleConfig = field(default_factory=NoiseScaleConfig)
    """The gradient noise scale."""
    checks: CheckConfigs = field(default_factory=CheckConfigs)
    """One entry a check."""
    causes: StandaloneConfig = field(default_factory=StandaloneConfig)
    """Causes that are findings of their own."""
    rules: str = ""
    """Rule set of another tool to run beside the checks: `sagemaker`; empty for none."""
    disabled: tuple[str, ...] = ()
    """Kinds that are not checked."""
    attentive_seconds: float = 5.0
    """A longer gap between two calls is the detector's own outage: no rank's clock runs in it."""

    def __post_init__(self) -> None:
        """Refuse unknown kinds and times that make no sense."""
        # As text: from a file or the environment anything may come.
        unknown = {str(name) for name in self.disabled} - {*self.checks.names(), *STANDALONE_CHECKS}
        if unknown:
            raise ValueError(f"disabled names no check: {', '.join(sorted(unknown))}")
        if self.rules and self.rules not in RULE_SETS:
            raise ValueError(f"rules is {self.rules!r}: the rule sets are {', '.join(RULE_SETS)}")
        if not self.attentive_seconds > 0:
            raise ValueError("attentive_seconds must be above 0")
