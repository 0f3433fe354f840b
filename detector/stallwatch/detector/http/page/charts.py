"""Which charts a page draws, and of which series."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import STEP_PHASES, RunView

_CONTEXT_STEPS = 50
_EVALUATION = "evaluation_"
_LINES = 5


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: its series in the order in which they are drawn."""

    name: str
    title: str
    series: tuple[str, ...]
    unit: str = ""
    points: int = 250
    """Asked for, of each series."""
    judged: bool = False
    """Whether trend, forecast and states are drawn, which are about the loss."""


CHARTS = (
    Chart("loss", "Loss", ("loss", "evaluation_loss"), points=500, judged=True),
    Chart("gradient-norm", "Gradient norm", ("gradient_norm_local", "gradient_norm_reduced")),
    Chart("phases", "Time per step, by phase", tuple(f"{phase}_seconds" for phase in STEP_PHASES), "s"),
    Chart("throughput", "Samples per second", ("samples_per_second",)),
    Chart(
        "batch", "Batch and gradient noise scale", ("effective_batch_size", "gradient_noise_scale"), "samples"
    ),
    Chart("learning-rate", "Learning rate", ("learning_rate",)),
)
_OF_CATEGORY = {
    "learning": ("loss", "gradient-norm", "learning-rate"),
    "causes": ("loss", "gradient-norm", "learning-rate"),
    "synchronisation": ("loss", "gradient-norm"),
    "scaling": ("phases", "batch", "throughput"),
    "progress": ("phases", "throughput", "loss"),
}


def charts(names: Collection[str]) -> list[Chart]:
    """The charts that a run with these series has."""
    metrics = [each for each in sorted(names) if each.startswith(_EVALUATION) and each != "evaluation_loss"]
    evaluation = Chart("evaluation", "Evaluation", tuple(metrics[:_LINES]))
    return [chart for chart in (*CHARTS, evaluation) if any(series in names for series in chart.series)]


def charts_of(finding: Finding, names: Collection[str]) -> list[Chart]:
    """Those that show what a finding is about, the most telling first."""
    wanted = _OF_CATEGORY.get(finding.category, ("loss",))
    return sorted(
        (chart for chart in charts(names) if chart.name in wanted), key=lambda chart: wanted.index(chart.name)
    )


def window(finding: Finding, view: RunView) -> tuple[int, int]:
    """The steps around a finding: its onset and where it was called, and where it was resolved unless that is far."""
    called = max(finding.detected_step, finding.since_step)
    context = max(2 * (called - finding.since_step), _CONTEXT_STEPS)
    end = called + context
    if finding.resolved_step is not None and finding.resolved_step <= called + 8 * context:
        end = max(end, finding.resolved_step + context)
    return max(finding.since_step - context, 0), min(end, max(view.step, called + 1))
