"""What `/metrics` shows: built anew for each scrape from what the service shows at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.metrics_core import Metric as Family

from stallwatch.detector.core.views import RunView
from stallwatch.detector.engine.messages import PollResult
from stallwatch.detector.http.catalogue import INFO_LABELS
from stallwatch.detector.http.families import Families

MOST_REASON_CHARACTERS = 1000
"""Some stores refuse label values of more than 2,048 bytes."""
Sample = tuple[str, float, tuple[str, ...]]
"""Name from the catalogue, value, and the values of the labels."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """Everything one scrape is made of."""

    runs: Sequence[PollResult]
    own: Sequence[Sample]
    """What the service counts about itself."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By finding, the sentence that its series carries: each new one is a new series."""
    silenced: frozenset[str] = frozenset()
    """Findings that a silence keeps quiet."""


class StallwatchCollector:
    """In the shape of a collector of prometheus_client, which a test compares its text with."""

    def __init__(self, expose: Callable[[], Exposed]) -> None:
        self._expose = expose
        self.seconds = 0.0
        """How long the last answer to a scrape took to make."""

    def describe(self) -> Iterable[Family]:
        """Nothing: so that registering does not collect."""
        return []

    def collect(self) -> Iterable[Family]:
        """Fresh families."""
        exposed = self._expose()
        families = Families()
        for result in exposed.runs:
            _run(families, result.view, exposed)
        for name, value, labels in exposed.own:
            families.add(name, value, *labels)
        families.add("stallwatch_scrape_seconds", self.seconds)
        return families


def _run(families: Families, view: RunView, exposed: Exposed) -> None:
    run = view.run
    families.add("stallwatch_run_state", 1, run, view.state)
    families.add("stallwatch_run_info", 1, run, *(view.info.get(label, "") for label in INFO_LABELS))
    families.add("stallwatch_run_last_report_timestamp_seconds", view.updated_at or None, run)
    if view.step >= 0:
        families.add("stallwatch_step", view.step, run)
    families.add("stallwatch_loss", view.loss.value, run, "train")
    families.add("stallwatch_loss", view.evaluation_loss, run, "evaluation")
    families.add("stallwatch_loss_slope_per_step", view.loss.slope_per_step, run)
    if (forecast := view.loss.forecast) is not None:
        name = "stallwatch_loss_forecast_relative_improvement"
        families.add(name, forecast.relative_improvement, run, "estimate")
        families.add(name, forecast.low, run, "low")
        families.add(name, forecast.high, run, "high")
    families.add("stallwatch_effective_batch_size", view.effective_batch_size, run)
    families.add("stallwatch_gradient_norm", view.gradient_norm_local, run, "local")
    families.add("stallwatch_gradient_norm", view.gradient_norm_reduced, run, "reduced")
    families.add("stallwatch_gradient_noise_scale", view.gradient_noise_scale, run)
    families.add("stallwatch_batch_over_critical", view.batch_over_critical, run)
    families.add("stallwatch_learning_rate", view.learning_rate, run)
    for phase, histogram in view.phase_histograms.items():
        families.add_histogram("stallwatch_step_seconds", histogram, run, phase)
    families.add_summary("stallwatch_sync_wait_seconds", view.sync_wait_quantiles, run)
    families.add("stallwatch_rank_lag_steps", view.rank_lag_steps, run)
    families.add("stallwatch_run_worst_rank", view.worst_rank, run)
    # Two findings of a kind may fire at once, on different ranks: one series.
    firing = {(finding.kind, finding.severity): finding for finding in reversed(view.findings)}
    for (kind, severity), finding in sorted(firing.items()):
        families.add("stallwatch_finding_active", 1, run, kind, severity)
        reason = exposed.reasons.get(finding.id, finding.reason)[:MOST_REASON_CHARACTERS]
        families.add("stallwatch_finding_info", 1, run, kind, severity, finding.id, reason)
        silenced = finding.id in exposed.silenced
        families.add("stallwatch_finding_silenced", 1 if silenced else None, run, kind, severity)
    for kind, count in sorted(view.findings_total.items()):
        families.add("stallwatch_findings_total", count, run, kind)
    for kind, seconds in sorted(view.stalled_gpu_seconds.items()):
        families.add("stallwatch_stalled_gpu_seconds_total", seconds, run, kind)
    families.add("stallwatch_agent_overhead_ratio", view.agent_share, run)
    for reason, count in sorted(view.dropped_steps.items()):
        families.add("stallwatch_agent_dropped_total", count, run, reason)
    families.add("stallwatch_ingest_run_steps_total", view.steps_received, run)
    families.add("stallwatch_ingest_run_missing_steps", view.steps_missing, run)
    families.add("stallwatch_ingest_run_duplicate_batches_total", view.duplicate_batches, run)
