"""What the service counts about itself, as samples of catalogued metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stallwatch.detector.alerts.model import FIRING, RESOLVED
from stallwatch.detector.alerts.statistics import AlertStatistics
from stallwatch.detector.engine.archive import Archive
from stallwatch.detector.engine.messages import PollResult
from stallwatch.detector.http.collector import Sample
from stallwatch.detector.ingest.statistics import PAYLOADS, REFUSALS, THROTTLES, IngestStatistics
from stallwatch.detector.service.process import process_samples
from stallwatch.detector.version import VERSION


def own_samples(counts: IngestStatistics, runs: int, restarts: int) -> Iterator[Sample]:
    """All of them; what has not happened yet is 0, so that a rate can be taken of the first."""
    yield "stallwatch_ingest_streams", counts.streams, ()
    yield "stallwatch_ingest_streams_opened_total", counts.streams_total, ()
    for name, counter, known in (
        ("stallwatch_ingest_streams_refused_total", counts.streams_refused, REFUSALS),
        ("stallwatch_ingest_messages_total", counts.messages, PAYLOADS),
        ("stallwatch_ingest_rejected_total", counts.rejected, ("batch", "heartbeat", "unknown")),
        ("stallwatch_ingest_throttled_seconds_total", counts.throttled, THROTTLES),
    ):
        for label in known:
            yield name, counter[label], (label,)
    yield "stallwatch_http_throttled_seconds_total", counts.readers_throttled["share"], ()
    yield "stallwatch_ingest_bytes_total", counts.bytes, ()
    yield "stallwatch_ingest_steps_total", counts.steps, ()
    yield "stallwatch_ingest_duplicates_total", counts.duplicates, ()
    yield "stallwatch_ingest_backpressure_seconds_total", counts.backpressure_seconds, ()
    yield "stallwatch_ingest_queue_inputs", counts.queued_inputs, ()
    yield "stallwatch_ingest_queue_bytes", counts.queued_bytes, ()
    yield "stallwatch_analyzer_runs", runs, ()
    yield "stallwatch_analyzer_restarts_total", restarts, ()
    yield "stallwatch_analyzer_inputs_total", counts.inputs_applied, ()
    yield "stallwatch_analyzer_failures_total", counts.failures, ()
    yield "stallwatch_analyzer_busy_seconds_total", counts.apply_seconds, ()
    yield "stallwatch_build_info", 1, (VERSION,)
    yield from process_samples()


def run_samples(evictions: Mapping[str, int], memory_bytes: int) -> Iterator[Sample]:
    """Those of runs that leave memory, and of what the others hold."""
    for reason, count in evictions.items():
        yield "stallwatch_runs_evicted_total", count, (reason,)
    yield "stallwatch_analyzer_memory_bytes", memory_bytes, ()


def alert_samples(
    counts: AlertStatistics, firing: int, silenced: int, alertmanagers: int, webhooks: int
) -> Iterator[Sample]:
    """Those of alerts, for each receiver that is configured."""
    yield "stallwatch_alerts_firing", firing, ()
    yield "stallwatch_alerts_silenced", silenced, ()
    for status in (FIRING, RESOLVED):
        yield "stallwatch_alert_events_total", counts.events[status], (status,)
    for name, counter, receivers in (
        ("stallwatch_alertmanager_sends_total", counts.alertmanager_sends, alertmanagers),
        ("stallwatch_alertmanager_errors_total", counts.alertmanager_errors, alertmanagers),
        ("stallwatch_webhook_sends_total", counts.webhook_sends, webhooks),
        ("stallwatch_webhook_errors_total", counts.webhook_errors, webhooks),
        ("stallwatch_webhook_dead_letters_total", counts.dead_letters, webhooks),
    ):
        for index in range(receivers):
            yield name, counter[index], (str(index),)


def snapshot_samples(counts: SnapshotCounts, last: Sequence[PollResult]) -> Iterator[Sample]:
    """Those of snapshots, over all runs."""
    yield "stallwatch_analyzer_snapshots_total", counts.saved, ()
    yield "stallwatch_analyzer_snapshot_failures_total", counts.failed, ()
    yield "stallwatch_analyzer_snapshots_damaged_total", counts.all_damaged, ()
    yield "stallwatch_analyzer_snapshot_bytes", sum(each.snapshot_bytes for each in last), ()
    yield (
        "stallwatch_analyzer_snapshot_seconds",
        max((each.snapshot_seconds for each in last), default=0.0),
        (),
    )


@dataclass(slots=True)
class SnapshotCounts:
    """Snapshots of all runs, those of runs that are over included."""

    saved: int = 0
    failed: int = 0
    damaged: int = 0
    archive: Archive | None = None
    """Finds damaged ones of its own, of runs that are not watched."""

    @property
    def all_damaged(self) -> int:
        """Set aside because they could not be read."""
        return self.damaged + (self.archive.damaged if self.archive is not None else 0)

    def take(self, before: PollResult | None, now: PollResult) -> None:
        """Count what has come since the poll before; another life of an analyzer counts from 0."""
        same = before is not None and before.generation == now.generation
        self.saved += now.snapshots - (before.snapshots if same and before else 0)
        self.failed += now.snapshot_failures - (before.snapshot_failures if same and before else 0)
        self.damaged += 0 if same else now.snapshots_damaged
