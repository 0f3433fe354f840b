"""What `/metrics` shows: built anew for each scrape from what the service shows at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric as Family

from stallwatch.detector.core.views import RUN_STATES, RunView
from stallwatch.detector.engine.messages import PollResult
from stallwatch.detector.http.catalogue import INFO_LABELS
from stallwatch.detector.http.families import Families

Sample = tuple[str, float, tuple[str, ...]]
"""Name from the catalogue, value, and the values of the labels."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """Everything one scrape is made of."""

    runs: Sequence[PollResult]
    own: Sequence[Sample]
    """What the service counts about itself."""


class StallwatchCollector:
    """Registered with a registry of its own."""

    def __init__(self, expose: Callable[[], Exposed]) -> None:
        self._expose = expose

    def describe(self) -> Iterable[Family]:
        """Nothing: so that registering does not collect."""
        return []

    def collect(self) -> Iterable[Family]:
        """Fresh families."""
        exposed = self._expose()
        families = Families()
        for result in exposed.runs:
            _run(families, result.view)
            _analyzer(families, result)
        for name, value, labels in exposed.own:
            families.add(name, value, *labels)
        return families


def _run(families: Families, view: RunView) -> None:
    run = view.run
    for state in RUN_STATES:
        families.add("stallwatch_run_state", state == view.state, run, state)
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
    families.add_summary(
        "stallwatch_sync_wait_seconds", view.sync_wait_quantiles, view.phase_histograms.get("sync"), run
    )
    families.add("stallwatch_rank_lag_steps", view.rank_lag_steps, run)
    families.add("stallwatch_run_worst_rank", view.worst_rank, run)
    # Two findings of a kind may fire at once, on different ranks: one series.
    for kind, severity in sorted({(finding.kind, finding.severity) for finding in view.findings}):
        families.add("stallwatch_finding_active", 1, run, kind, severity)
    for kind, count in sorted(view.findings_total.items()):
        families.add("stallwatch_findings_total", count, run, kind)
    for kind, seconds in sorted(view.stalled_gpu_seconds.items()):
        families.add("stallwatch_stalled_gpu_seconds_total", seconds, run, kind)
    for reason, count in sorted(view.dropped_steps.items()):
        families.add("stallwatch_agent_dropped_total", count, run, reason)
    families.add("stallwatch_ingest_run_steps_total", view.steps_received, run)
    families.add("stallwatch_ingest_run_missing_steps", view.steps_missing, run)
    families.add("stallwatch_ingest_run_duplicate_batches_total", view.duplicate_batches, run)


def _analyzer(families: Families, result: PollResult) -> None:
    run = result.view.run
    families.add("stallwatch_analyzer_snapshots_total", result.snapshots, run)
    families.add("stallwatch_analyzer_snapshot_failures_total", result.snapshot_failures, run)
    families.add("stallwatch_analyzer_snapshot_bytes", result.snapshot_bytes, run)
    families.add("stallwatch_analyzer_snapshot_seconds", result.snapshot_seconds, run)
