"""Panels about the detector itself: a monitor that is not well says nothing, and silence looks like health."""

from __future__ import annotations

from stallwatch.detector.mixin.grafana.fields import Json, on_right_axis, thresholds, value_map
from stallwatch.detector.mixin.grafana.panels import graph, query, row, stat
from stallwatch.detector.mixin.grafana.promql import TARGET_MATCHERS, Scope

_UP = value_map([(0, "down", "red"), (1, "up", "green")])
_ONE = "{{instance}}"


def health_panels(runs: Scope) -> list[Json]:
    """The row of the detector; it has no run, but for what a run's ranks could not deliver."""

    def summed(expression: str, *labels: str) -> str:
        return f"sum by ({', '.join(('instance', *labels))}) ({expression})"

    return [
        row("The detector itself"),
        stat(
            "Scrape",
            "Whether Prometheus reaches the detector. While it does not, no dashboard and no alert knows anything new.",
            query(f"min by (instance) (up{{{', '.join(TARGET_MATCHERS)}}})", _ONE),
            unit="none",
            background=True,
            defaults={"mappings": _UP, "thresholds": thresholds((None, "red"), (1, "green"))},
        ),
        stat(
            "Version",
            "Of each detector that is scraped.",
            query(f"max by (instance, version) ({runs.select('stallwatch_build_info')})", "{{version}}"),
            unit="none",
            text_mode="name",
        ),
        stat(
            "Ranks connected",
            "Open streams. It falls to 0 when no agent can reach the detector.",
            query(f"sum({runs.select('stallwatch_ingest_streams')})", "ranks"),
            unit="short",
        ),
        stat(
            "Runs watched",
            "Runs with an analyzer of their own in memory.",
            query(f"sum({runs.select('stallwatch_analyzer_runs')})", "runs"),
            unit="short",
        ),
        stat(
            "Analyzers lost",
            "Since the detector started: how often a run's analyzer died and was opened again from the store.",
            query(f"sum({runs.select('stallwatch_analyzer_restarts_total')})", "restarts"),
            unit="short",
            defaults={"thresholds": thresholds((None, "text"), (1, "orange"))},
        ),
        stat(
            "Failed inputs",
            "Since the detector started: inputs that the analysis failed on. Each is a bug, logged by the analyzer.",
            query(f"sum({runs.select('stallwatch_analyzer_failures_total')})", "failures"),
            unit="short",
            defaults={"thresholds": thresholds((None, "text"), (1, "red"))},
        ),
        stat(
            "Failed snapshots",
            "Since the analyzers started: snapshots that the store did not take. Until one succeeds, agents keep everything.",
            query(f"sum({runs.select('stallwatch_analyzer_snapshot_failures_total')})", "failures"),
            unit="short",
            defaults={"thresholds": thresholds((None, "text"), (1, "red"))},
        ),
        stat(
            "Steps missing",
            "Steps of ranks that have not come, over the runs chosen. A few are on their way; a number that stays is lost data.",
            query(f"sum({runs.latest('stallwatch_ingest_run_missing_steps')})", "steps"),
            unit="short",
            defaults={"thresholds": thresholds((None, "text"), (1, "orange"))},
        ),
        graph(
            "Steps received",
            "Steps of ranks a second, repeated ones included.",
            query(summed(runs.rate("stallwatch_ingest_steps_total")), _ONE),
            unit="suffix:steps/s",
            defaults={"min": 0},
        ),
        graph(
            "Bytes received",
            "From agents, before decoding.",
            query(summed(runs.rate("stallwatch_ingest_bytes_total")), _ONE),
            unit="Bps",
            defaults={"min": 0},
        ),
        graph(
            "Waiting to be analyzed",
            "Messages that were received and not yet analyzed. Rising without end means that the analysis is too slow.",
            query(summed(runs.select("stallwatch_ingest_queue_inputs")), f"{_ONE} messages"),
            query(summed(runs.select("stallwatch_ingest_queue_bytes")), f"{_ONE} bytes"),
            unit="short",
            defaults={"min": 0},
            overrides=[on_right_axis("B", "bytes")],
        ),
        graph(
            "Busy",
            "Share of the time that analyzers work, 100 % being one processor; and that streams wait for room in their run's queue.",
            query(summed(runs.rate("stallwatch_analyzer_busy_seconds_total")), f"{_ONE} analyzing"),
            query(summed(runs.rate("stallwatch_ingest_backpressure_seconds_total")), f"{_ONE} waiting"),
            unit="percentunit",
            defaults={"min": 0},
        ),
        graph(
            "Refused and rejected",
            "Streams refused at their first message by reason, messages that break the protocol, and batches that came twice, a second. "
            "Repeats after a reconnect are harmless; the rest means wrong settings or versions.",
            query(
                f"sum by (reason) ({runs.rate('stallwatch_ingest_streams_refused_total')})",
                "refused: {{reason}}",
            ),
            query(
                f"sum by (payload) ({runs.rate('stallwatch_ingest_rejected_total')})",
                "rejected: {{payload}}",
            ),
            query(f"sum({runs.rate('stallwatch_ingest_duplicates_total')})", "repeated"),
            unit="cps",
            defaults={"min": 0},
        ),
        graph(
            "Saving",
            "How long the slowest of the runs' last snapshots took, and how large all of them are. Agents keep a batch until the "
            "snapshot with it is saved.",
            query(
                f"max by (instance) ({runs.select('stallwatch_analyzer_snapshot_seconds')})",
                f"{_ONE} slowest",
            ),
            query(summed(runs.select("stallwatch_analyzer_snapshot_bytes")), f"{_ONE} size"),
            unit="s",
            defaults={"min": 0},
            overrides=[on_right_axis("B", "bytes")],
        ),
        graph(
            "Alerts",
            "Findings that are firing as alerts, and those of them that a silence keeps quiet.",
            query(summed(runs.select("stallwatch_alerts_firing")), f"{_ONE} firing"),
            query(summed(runs.select("stallwatch_alerts_silenced")), f"{_ONE} silenced"),
            unit="short",
            defaults={"min": 0, "decimals": 0},
        ),
        graph(
            "Alerts sent directly",
            "Requests a second to each Alertmanager and webhook of the settings, by its place there, and how many failed. Dead letters are "
            "events given up, since the detector started: somebody was not told.",
            *(
                query(
                    f"sum by (receiver) ({runs.rate(f'stallwatch_{name}_total')})", f"{text} {{{{receiver}}}}"
                )
                for name, text in (
                    ("alertmanager_sends", "to Alertmanager"),
                    ("alertmanager_errors", "failed: Alertmanager"),
                    ("webhook_sends", "to webhook"),
                    ("webhook_errors", "failed: webhook"),
                )
            ),
            query(
                f"sum by (receiver) ({runs.select('stallwatch_webhook_dead_letters_total')})",
                "dead letters: webhook {{receiver}}",
            ),
            unit="cps",
            defaults={"min": 0, "noValue": "none are configured"},
        ),
    ]
