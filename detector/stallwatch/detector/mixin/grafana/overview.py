"""The dashboard of all runs: which of them needs somebody, what it costs, and whether the detector itself is well."""

from __future__ import annotations

from stallwatch.detector.core.views import RUN_STATES
from stallwatch.detector.mixin.grafana.detector_health import health_panels
from stallwatch.detector.mixin.grafana.fields import (
    FIRING,
    SEVERITY_COLORS,
    STATE_COLORS,
    STATES,
    Json,
    color_background,
    fixed,
    override,
    run_link,
    runbook_link,
    spoken,
)
from stallwatch.detector.mixin.grafana.frame import annotation, dashboard, link, variables
from stallwatch.detector.mixin.grafana.panels import bars, graph, query, row, stat, table, timeline
from stallwatch.detector.mixin.grafana.promql import Scope, by_run

UID = "stallwatch-overview"
WORST = 10
"""Bars in the panel of the costliest findings."""

RUNS = Scope('run=~"$run"')
_ROW_RUN, _ROW_KIND = "__data.fields.run", "__data.fields.kind"


def overview(detector_url: str) -> Json:
    """The dashboard `stallwatch-overview`."""
    return dashboard(
        UID,
        "Stallwatch / Overview",
        "Which training runs have stopped learning or moving, what that costs, and whether the detector is well.",
        since="now-6h",
        variables=variables(detector_url, one_run=False),
        annotations=[
            annotation(
                "Critical findings",
                RUNS.latest("stallwatch_finding_active", "kind", "severity", severity="critical"),
                "red",
                title="{{kind}}",
                text="{{run}}",
                tags=("kind",),
            )
        ],
        links=[
            link(
                "Detector's page", "${detector:raw}/", "The same without Grafana, with reasons and advice",
                icon="external link", keep_time=False,
            )
        ],
        panels=[*_now(), *_over_time(), *health_panels(RUNS)],
    )  # fmt: skip


def _now() -> list[Json]:
    active = RUNS.latest("stallwatch_finding_active", "kind", "severity")
    stalled = RUNS.latest("stallwatch_stalled_gpu_seconds_total", "kind")
    firing = RUNS.select("stallwatch_finding_active")
    return [
        stat(
            "Runs by state",
            "How many runs are in each state now. A run that has ended stays as finished or lost for a while.",
            query(
                f"sum by (state) ({RUNS.latest('stallwatch_run_state', 'state')})", "{{state}}", instant=True
            ),
            unit="short",
            size=(16, 4),
            text_mode="value_and_name",
            overrides=[
                override(state, displayName=spoken(state), color=fixed(STATE_COLORS[state]))
                for state in RUN_STATES
            ],
        ),
        stat(
            "Firing findings by severity",
            "How many findings are firing now, over all runs.",
            query(f"count by (severity) ({active})", "{{severity}}", instant=True),
            unit="short",
            size=(8, 4),
            text_mode="value_and_name",
            defaults={"noValue": "none"},
            overrides=[override(name, color=fixed(color)) for name, color in SEVERITY_COLORS.items()],
        ),
        table(
            "Firing findings",
            "What is wrong now, the worst first. A click on the run opens its dashboard, on the finding what it means and "
            "what to do. GPU-hours are the time of all ranks since the finding's onset, not since it was called.",
            query(RUNS.severity(), table=True),
            query(f"{stalled} / 3600 and on (namespace, run, kind) {firing}", table=True),
            query(RUNS.latest("stallwatch_finding_info", "kind", "reason"), table=True),
            columns=[
                ("run", {"displayName": "Run", "links": run_link(_ROW_RUN)}),
                ("namespace", {"displayName": "Namespace"}),
                ("kind", {"displayName": "Finding", "links": runbook_link(_ROW_KIND)}),
                (
                    "Value #A",
                    {"displayName": "Severity", "mappings": FIRING, "custom.cellOptions": color_background()},
                ),
                (
                    "Value #B",
                    {"displayName": "Stalled", "unit": "suffix:GPU-h", "decimals": 2, "noValue": "0"},
                ),
                ("reason", {"displayName": "Reason"}),
            ],
            hidden=("Value #C",),
            sort=("Severity", True),
            size=(16, 9),
        ),
        bars(
            "Most GPU-hours stalled",
            "The costliest findings of the runs chosen, since each run began: ranks times the time during which the finding was true. "
            "Time under two findings counts for both, so the bars must not be added.",
            query(f"topk({WORST}, {stalled} / 3600)", "{{run}}: {{kind}}", instant=True),
            unit="suffix:GPU-h",
            size=(8, 9),
            defaults={"decimals": 2, "links": run_link("__field.labels.run"), "noValue": "none"},
        ),
        table(
            "Runs",
            "Every run that reports. A click on its name opens its dashboard.",
            query(RUNS.state(), table=True),
            query(RUNS.latest("stallwatch_step"), table=True),
            query(RUNS.latest("stallwatch_loss", split="train"), table=True),
            query(RUNS.latest("stallwatch_loss_forecast_relative_improvement", bound="estimate"), table=True),
            query(RUNS.latest("stallwatch_effective_batch_size"), table=True),
            query(by_run("count", RUNS.latest("stallwatch_finding_active", "kind")), table=True),
            query(f"time() - {RUNS.latest('stallwatch_run_last_report_timestamp_seconds')}", table=True),
            query(RUNS.latest("stallwatch_run_info", "model", "parallelism", "world_size"), table=True),
            columns=[
                ("run", {"displayName": "Run", "links": run_link(_ROW_RUN)}),
                ("namespace", {"displayName": "Namespace"}),
                (
                    "Value #A",
                    {"displayName": "State", "mappings": STATES, "custom.cellOptions": color_background()},
                ),
                ("Value #F", {"displayName": "Findings", "unit": "short", "noValue": "0"}),
                ("Value #B", {"displayName": "Step", "unit": "locale"}),
                ("Value #C", {"displayName": "Loss", "decimals": 4}),
                ("Value #D", {"displayName": "Expected improvement", "unit": "percentunit", "decimals": 2}),
                ("Value #E", {"displayName": "Batch", "unit": "locale"}),
                ("model", {"displayName": "Model"}),
                ("parallelism", {"displayName": "Parallelism"}),
                ("world_size", {"displayName": "Ranks"}),
                ("Value #G", {"displayName": "Last report", "unit": "s", "decimals": 0}),
            ],
            hidden=("Value #H",),
            sort=("Run", False),
            size=(24, 10),
        ),
    ]


def _over_time() -> list[Json]:
    return [
        row("Over time"),
        timeline(
            "States",
            "What state each run was in. A run that is hung or lost does not move at all; on a plateau it moves and does not learn.",
            query(RUNS.state(), "{{run}}"),
            mappings=STATES,
            size=(24, 9),
        ),
        graph(
            "Runs with a finding",
            "In how many runs each kind of finding is firing. One kind in many runs at once points at what they share: "
            "storage, network, a library.",
            query(f"count by (kind) ({RUNS.latest('stallwatch_finding_active', 'kind')})", "{{kind}}"),
            unit="short",
            defaults={"min": 0, "decimals": 0},
        ),
        graph(
            "Training loss",
            "Of each run, to compare runs of one model.",
            query(RUNS.latest("stallwatch_loss", split="train"), "{{run}}"),
            unit="none",
        ),
    ]
