"""Every metric there is, in one place: the collector, the docs, the rules and the dashboards take names from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    """As it is scraped: a counter's ends with `_total`."""
    type: str
    help: str
    labels: tuple[str, ...] = ()


def _catalogue(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


_RUN = ("run",)
INFO_LABELS = ("framework", "torch_version", "backend", "parallelism", "model", "optimizer", "world_size")

METRICS = _catalogue(
    Metric(
        "stallwatch_run_state",
        "gauge",
        "1 for the state that the run is in; it has no series for its other states.",
        ("run", "state"),
    ),
    Metric("stallwatch_run_info", "gauge", "Always 1; what the run is, in labels.", ("run", *INFO_LABELS)),
    Metric(
        "stallwatch_run_last_report_timestamp_seconds",
        "gauge",
        "When a rank of the run last reported, in Unix seconds.",
        _RUN,
    ),
    Metric("stallwatch_step", "gauge", "Last optimizer step that was analyzed, counted from 0.", _RUN),
    Metric("stallwatch_loss", "gauge", "Latest sample-weighted loss over all ranks.", ("run", "split")),
    Metric(
        "stallwatch_loss_slope_per_step",
        "gauge",
        "Slope of the training loss now, per optimizer step; negative while the model learns.",
        _RUN,
    ),
    Metric(
        "stallwatch_loss_forecast_relative_improvement",
        "gauge",
        "Improvement to expect over the forecast's horizon relative to the loss now: "
        "the estimate and the ends of its 95 % interval.",
        ("run", "bound"),
    ),
    Metric("stallwatch_effective_batch_size", "gauge", "Samples behind one optimizer step, all ranks.", _RUN),
    Metric(
        "stallwatch_gradient_norm",
        "gauge",
        "L2 norm of the gradient at the last sampled step: of the ranks before averaging, "
        "and of what the optimizer saw.",
        ("run", "stage"),
    ),
    Metric("stallwatch_gradient_noise_scale", "gauge", "Gradient noise scale, in samples.", _RUN),
    Metric(
        "stallwatch_batch_over_critical",
        "gauge",
        "Effective batch size over the critical batch size; far above 1, more ranks do not help learning.",
        _RUN,
    ),
    Metric("stallwatch_learning_rate", "gauge", "Learning rate of the first parameter group.", _RUN),
    Metric(
        "stallwatch_step_seconds",
        "histogram",
        "Seconds of a phase in one step of one rank.",
        ("run", "phase"),
    ),
    Metric(
        "stallwatch_sync_wait_seconds",
        "summary",
        "Exposed wait for other ranks in one step, quantiles over recent steps and ranks.",
        _RUN,
    ),
    Metric(
        "stallwatch_rank_lag_steps", "gauge", "Steps that the hindmost rank is behind the foremost.", _RUN
    ),
    Metric(
        "stallwatch_run_worst_rank", "gauge", "The rank that holds the run up most; absent when none.", _RUN
    ),
    Metric(
        "stallwatch_finding_active",
        "gauge",
        "1 while a finding of this kind is firing; absent otherwise.",
        ("run", "kind", "severity"),
    ),
    Metric(
        "stallwatch_finding_info",
        "gauge",
        "1 while a finding is firing, with its sentence in a label; the sentence is renewed at most after 5 minutes, "
        "then after twice as long each time.",
        ("run", "kind", "severity", "id", "reason"),
    ),
    Metric(
        "stallwatch_finding_silenced",
        "gauge",
        "1 while a finding of this kind is firing and a silence says not to alert; absent otherwise.",
        ("run", "kind", "severity"),
    ),
    Metric("stallwatch_findings_total", "counter", "Findings ever opened, by kind.", ("run", "kind")),
    Metric(
        "stallwatch_stalled_gpu_seconds_total",
        "counter",
        "Rank-seconds spent while a finding of this kind was true, from its onset.",
        ("run", "kind"),
    ),
    Metric(
        "stallwatch_agent_overhead_ratio",
        "gauge",
        "Share of its time that the agent took of a rank in the last minute, hooks and threads together; the largest of all ranks.",
        _RUN,
    ),
    Metric(
        "stallwatch_agent_dropped_total",
        "counter",
        "Steps, evaluations and events that agents could not deliver, by reason.",
        ("run", "reason"),
    ),
    Metric(
        "stallwatch_ingest_run_steps_total", "counter", "Steps of ranks received, each counted once.", _RUN
    ),
    Metric(
        "stallwatch_ingest_run_missing_steps",
        "gauge",
        "Steps between the first and last of each rank that have not come.",
        _RUN,
    ),
    Metric(
        "stallwatch_ingest_run_duplicate_batches_total",
        "counter",
        "Batches that came again after a reconnect and were not counted again.",
        _RUN,
    ),
    Metric("stallwatch_ingest_streams", "gauge", "Streams of ranks that are open."),
    Metric("stallwatch_ingest_streams_opened_total", "counter", "Streams of ranks ever opened."),
    Metric(
        "stallwatch_ingest_streams_refused_total",
        "counter",
        "Streams refused at their first message, by reason.",
        ("reason",),
    ),
    Metric("stallwatch_ingest_messages_total", "counter", "Messages received from agents.", ("payload",)),
    Metric(
        "stallwatch_ingest_bytes_total", "counter", "Bytes received from agents after their first message."
    ),
    Metric(
        "stallwatch_ingest_steps_total",
        "counter",
        "Steps in batches that were valid, repeated ones included.",
    ),
    Metric(
        "stallwatch_ingest_rejected_total",
        "counter",
        "Messages that were not taken because they break the protocol.",
        ("payload",),
    ),
    Metric("stallwatch_ingest_duplicates_total", "counter", "Batches that came again and changed nothing."),
    Metric(
        "stallwatch_ingest_backpressure_seconds_total",
        "counter",
        "Time that streams waited for room in their run's queue.",
    ),
    Metric(
        "stallwatch_ingest_throttled_seconds_total",
        "counter",
        "Time that messages waited because their run wanted more than it may have: time of the event loop (share), "
        "bytes a second (bytes), or room while the queues of all runs are too long (memory).",
        ("reason",),
    ),
    Metric(
        "stallwatch_http_throttled_seconds_total",
        "counter",
        "Time that requests of readers waited because those of their sort (scrapes, API, page) took more than their share.",
    ),
    Metric("stallwatch_ingest_queue_inputs", "gauge", "Messages received and not yet analyzed."),
    Metric("stallwatch_ingest_queue_bytes", "gauge", "Bytes received and not yet analyzed."),
    Metric("stallwatch_analyzer_runs", "gauge", "Runs that are watched now."),
    Metric(
        "stallwatch_runs_evicted_total",
        "counter",
        "Runs that left memory and are read from the store: because they ended long enough ago (over), another needed "
        "the place (room), or analyzers held more memory than they may (memory).",
        ("reason",),
    ),
    Metric(
        "stallwatch_analyzer_memory_bytes", "gauge", "Memory of the processes of all analyzers, as they say."
    ),
    Metric(
        "stallwatch_analyzer_restarts_total",
        "counter",
        "How often a run's analyzer was lost and opened again.",
    ),
    Metric("stallwatch_analyzer_inputs_total", "counter", "Inputs analyzed."),
    Metric(
        "stallwatch_analyzer_failures_total",
        "counter",
        "Inputs that the analysis failed on: each is a bug, logged by the analyzer.",
    ),
    Metric("stallwatch_analyzer_busy_seconds_total", "counter", "Time that analyzers spent on inputs."),
    Metric("stallwatch_analyzer_snapshots_total", "counter", "Snapshots of runs saved."),
    Metric(
        "stallwatch_analyzer_snapshot_failures_total", "counter", "Snapshots of runs that could not be saved."
    ),
    Metric(
        "stallwatch_analyzer_snapshots_damaged_total",
        "counter",
        "Snapshots of runs that could not be read and were set aside; the one before was used.",
    ),
    Metric(
        "stallwatch_analyzer_snapshot_bytes",
        "gauge",
        "Size of the last snapshots of the watched runs, together.",
    ),
    Metric(
        "stallwatch_analyzer_snapshot_seconds",
        "gauge",
        "Duration of the slowest of the watched runs' last snapshots.",
    ),
    Metric(
        "stallwatch_alerts_firing",
        "gauge",
        "Alerts that the service holds to be firing, silenced ones included.",
    ),
    Metric("stallwatch_alerts_silenced", "gauge", "Alerts that are firing and silenced."),
    Metric(
        "stallwatch_alert_events_total",
        "counter",
        "Alerts that began to fire, or were resolved, each counted once.",
        ("status",),
    ),
    Metric(
        "stallwatch_alertmanager_sends_total",
        "counter",
        "Requests that an Alertmanager took, by its index in the settings.",
        ("receiver",),
    ),
    Metric(
        "stallwatch_alertmanager_errors_total",
        "counter",
        "Requests to an Alertmanager that failed, by its index in the settings.",
        ("receiver",),
    ),
    Metric(
        "stallwatch_webhook_sends_total",
        "counter",
        "Events that a webhook took, by its index in the settings.",
        ("receiver",),
    ),
    Metric(
        "stallwatch_webhook_errors_total",
        "counter",
        "Requests to a webhook that failed, by its index in the settings; they are tried again.",
        ("receiver",),
    ),
    Metric(
        "stallwatch_webhook_dead_letters_total",
        "counter",
        "Events given up: refused by the webhook, too old, or pushed out by later ones.",
        ("receiver",),
    ),
    Metric(
        "stallwatch_detector_resident_bytes",
        "gauge",
        "Memory of the detector's own process, without analyzers.",
    ),
    Metric(
        "stallwatch_detector_open_files",
        "gauge",
        "Files and connections that the detector's own process has open.",
    ),
    Metric("stallwatch_detector_threads", "gauge", "Threads of the detector's own process."),
    Metric(
        "stallwatch_detector_tasks",
        "gauge",
        "Tasks of the detector's event loop: some, and a few for each stream and run.",
    ),
    Metric("stallwatch_scrape_seconds", "gauge", "How long the last answer to a scrape took to make."),
    Metric("stallwatch_build_info", "gauge", "Always 1; the version, in a label.", ("version",)),
)
