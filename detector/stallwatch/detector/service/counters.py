"""What the service counts about itself, as samples of catalogued metrics."""

from __future__ import annotations

from collections.abc import Iterator

from stallwatch.detector.http.collector import Sample
from stallwatch.detector.ingest.statistics import PAYLOADS, REFUSALS, IngestStatistics
from stallwatch.detector.version import VERSION


def own_samples(counts: IngestStatistics, runs: int, restarts: int) -> Iterator[Sample]:
    """All of them; what has not happened yet is 0, so that a rate can be taken of the first."""
    yield "stallwatch_ingest_streams", counts.streams, ()
    yield "stallwatch_ingest_streams_opened_total", counts.streams_total, ()
    for name, counter, known in (
        ("stallwatch_ingest_streams_refused_total", counts.streams_refused, REFUSALS),
        ("stallwatch_ingest_messages_total", counts.messages, PAYLOADS),
        ("stallwatch_ingest_rejected_total", counts.rejected, ("batch", "heartbeat", "unknown")),
    ):
        for label in known:
            yield name, counter[label], (label,)
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
