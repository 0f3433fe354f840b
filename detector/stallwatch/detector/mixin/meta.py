"""Alerts about Stallwatch itself: who watches must be watched."""

from __future__ import annotations

from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.mixin.recording import FAILURES, GIVEN_UP, LOST_STEPS, REJECTED, UNSENT, metric
from stallwatch.detector.mixin.shape import Alert, Group

SILENT_SECONDS = 300
SLOW_SCRAPE_SECONDS = 2
_BY_RUN = "{{ $labels.run }}"


def meta_group(links: Links, pending: str | None, keep: str | None) -> Group:
    """The alerts, with other durations where they are given."""
    restarts = metric("stallwatch_analyzer_restarts_total")
    report, state = metric("stallwatch_run_last_report_timestamp_seconds"), metric("stallwatch_run_state")

    def alert(
        name: str,
        expr: str,
        wait: str,
        severity: str,
        text: str,
        details: str,
        hold: str = "5m",
        dashboard: str = "",
    ) -> Alert:
        return Alert(
            alert=name,
            expr=expr,
            pending=pending or wait,
            keep=keep or hold,
            severity=severity,
            summary=text,
            description=details,
            runbook_url=links.runbook(name),
            dashboard_url=dashboard or links.overview(),
        )

    return Group(
        "stallwatch.service",
        [
            alert(
                "StallwatchDown",
                f"absent({metric('stallwatch_build_info')})",
                "5m",
                "critical",
                "No Stallwatch detector is scraped.",
                "Prometheus has no sample of a Stallwatch detector: it is down, or it is not scraped. "
                "Training goes on, and nobody watches it.",
                hold="0s",
            ),
            alert(
                "StallwatchIngestDropping",
                f"{LOST_STEPS} > 0 or {REJECTED} > 0",
                "5m",
                "warning",
                "Telemetry of training jobs is lost or refused.",
                "{{ with $labels.run }}Agents of run {{ . }} could not deliver {{ $value | humanize }} steps in 10 minutes."
                "{{ else }}{{ $value | humanize }} messages of agents were refused in 10 minutes.{{ end }}",
            ),
            alert(
                "StallwatchAgentsAbsent",
                f"time() - {report} > {SILENT_SECONDS} unless on (job, instance, run) {state}"
                '{state="finished"} == 1',
                "5m",
                "warning",
                "A run that was reporting is silent and has not finished.",
                f"Run {_BY_RUN} has not reported for {{{{ $value | humanizeDuration }}}} and has not said goodbye: its "
                "processes are gone, or cannot reach the detector.",
                dashboard=links.quoted_dashboard("{{ $labels.run | urlquery }}"),
            ),
            alert(
                "StallwatchAnalyzerFailing",
                f"{FAILURES} > 0 or increase({restarts}[30m]) > 3",
                "5m",
                "warning",
                "The analysis of runs fails or cannot be saved.",
                "Analyzers of {{ $labels.job }} fail on inputs, cannot save snapshots, or are lost again and again: findings "
                "may be missing. The detector's log says why.",
            ),
            alert(
                "StallwatchAlertsUndelivered",
                f"{GIVEN_UP} > 0 or {UNSENT} > 2",
                "5m",
                "warning",
                "Alerts that the detector sends itself do not arrive.",
                "{{ $value | humanize }} requests to Alertmanager or events for webhooks failed in 15 minutes.",
            ),
            alert(
                "StallwatchScrapeSlow",
                f"{metric('stallwatch_scrape_seconds')} > {SLOW_SCRAPE_SECONDS}",
                "15m",
                "warning",
                "The detector takes long to answer a scrape.",
                "An answer to Prometheus takes {{ $value | humanizeDuration }} to make at {{ $labels.instance }}: "
                "it watches more than this machine can show.",
            ),
        ],
    )
