"""The dashboard of one run: does it learn, does it move, since when not, which rank, and what it costs."""

from __future__ import annotations

from stallwatch.detector.mixin.grafana.fields import (
    FIRING,
    STATES,
    Json,
    color_background,
    runbook_link,
    thresholds,
)
from stallwatch.detector.mixin.grafana.frame import annotation, dashboard, link, variables
from stallwatch.detector.mixin.grafana.panels import graph, query, row, stat, table, timeline
from stallwatch.detector.mixin.grafana.promql import Scope
from stallwatch.detector.mixin.grafana.run_learning import learning_panels
from stallwatch.detector.mixin.grafana.run_steps import step_panels

UID = "stallwatch-run"
TROUBLE = ("slow", "plateau", "oscillating", "diverging", "hung", "lost")

RUN = Scope('run="$run"')


def run(detector_url: str) -> Json:
    """The dashboard `stallwatch-run`."""
    return dashboard(
        UID,
        "Stallwatch / Run",
        "One training run: whether it learns and moves, since when not, why, on which ranks, and what that costs.",
        since="now-6h",
        variables=variables(detector_url, one_run=True),
        annotations=[
            annotation(
                "Findings",
                RUN.latest("stallwatch_finding_active", "kind", "severity"),
                "red",
                title="{{kind}}",
                text="{{severity}}",
                tags=("kind", "severity"),
            ),
            annotation(
                "States of trouble",
                f"{RUN.latest('stallwatch_run_state', 'state', state=TROUBLE)} == 1",
                "orange",
                title="{{state}}",
                text="state of the run",
                tags=("state",),
            ),
        ],
        links=[
            link(
                "All runs",
                "/d/stallwatch-overview?${datasource:queryparam}&${namespace:queryparam}&${job:queryparam}",
                "Which runs need somebody",
            ),
            link(
                "Run on the detector's page", "${detector:raw}/runs/${run:percentencode}",
                "Findings with their evidence, ranked causes and advice; every rank", icon="external link", keep_time=False,
            ),
        ],
        panels=[
            *_at_a_glance(),
            *learning_panels(RUN),
            *step_panels(RUN),
            *_findings(),
            *_data(),
        ],
    )  # fmt: skip


def _at_a_glance() -> list[Json]:
    stalled = RUN.latest("stallwatch_stalled_gpu_seconds_total", "kind")
    return [
        stat(
            "State",
            "What the run is doing, as the detector judges it; the last known state when the run has ended.",
            query(RUN.state(), "state"),
            unit="none",
            background=True,
            defaults={"mappings": STATES},
        ),
        stat(
            "Step",
            "Last optimizer step that was analyzed, counted from 0.",
            query(RUN.latest("stallwatch_step"), "step"),
            unit="locale",
        ),
        stat(
            "Training loss",
            "Latest sample-weighted mean over all ranks.",
            query(RUN.latest("stallwatch_loss", split="train"), "loss"),
            unit="none",
            defaults={"decimals": 4},
        ),
        stat(
            "Expected improvement",
            "How much lower the loss will be after the forecast's horizon at these settings, relative to the loss now.",
            query(RUN.latest("stallwatch_loss_forecast_relative_improvement", bound="estimate"), "expected"),
            unit="percentunit",
            defaults={"decimals": 2, "noValue": "not yet known"},
        ),
        stat(
            "Firing findings",
            "How many kinds of findings are firing now. The table below names them.",
            query(f"sum({RUN.latest('stallwatch_finding_active', 'kind')}) or vector(0)", "findings"),
            unit="short",
            defaults={"thresholds": thresholds((None, "green"), (1, "orange"))},
        ),
        stat(
            "Stalled",
            "Of the costliest kind of finding so far: ranks times the time during which it was true, from its onset.",
            query(f"max by (namespace, run) ({stalled}) / 3600", "GPU-hours"),
            unit="suffix:GPU-h",
            defaults={"decimals": 2, "noValue": "0 GPU-h"},
        ),
        stat(
            "Worst rank",
            "The rank that is furthest behind; none while all are at the same step.",
            query(RUN.latest("stallwatch_run_worst_rank"), "rank"),
            unit="none",
            defaults={"noValue": "none"},
        ),
        stat(
            "Last report",
            "Time since a rank last reported.",
            query(
                f"time() - {RUN.latest('stallwatch_run_last_report_timestamp_seconds')}", "ago", instant=True
            ),
            unit="s",
            defaults={"decimals": 0, "noValue": "gone"},
        ),
        timeline(
            "State over time",
            "When the run learned, and when it did not. Hung and lost: it did not move at all.",
            query(RUN.state(), "state"),
            mappings=STATES,
            size=(24, 4),
            legend=False,
        ),
        timeline(
            "Findings over time",
            "When each kind of finding was firing, in the colour of its severity. A bar begins when the finding was called; the "
            "detector's page says the step at which it began.",
            query(RUN.severity(), "{{kind}}"),
            mappings=FIRING,
            size=(24, 6),
            legend=False,
            defaults={"noValue": "none", "links": runbook_link("__field.labels.kind")},
        ),
    ]


def _findings() -> list[Json]:
    def over_range(name: str) -> str:
        return f"max by (namespace, run, kind) (last_over_time({RUN.select(name)}[$__range]))"

    opened = over_range("stallwatch_findings_total")
    return [
        row("Findings and their cost"),
        table(
            "Findings so far",
            "Every kind that has opened since the run began, those firing now first. A click on a finding leads to what it means and "
            "what to do. GPU-hours are ranks times the time during which it was true, from its onset.",
            query(f"{RUN.severity()} or 0 * {opened}", table=True),
            query(opened, table=True),
            query(f"{over_range('stallwatch_stalled_gpu_seconds_total')} / 3600", table=True),
            query(RUN.latest("stallwatch_finding_info", "kind", "reason"), table=True),
            columns=[
                ("kind", {"displayName": "Finding", "links": runbook_link("__data.fields.kind")}),
                (
                    "Value #A",
                    {"displayName": "Firing", "mappings": FIRING, "custom.cellOptions": color_background()},
                ),
                ("Value #B", {"displayName": "Opened", "unit": "short"}),
                ("Value #C", {"displayName": "Stalled", "unit": "suffix:GPU-h", "decimals": 2}),
                ("reason", {"displayName": "Reason"}),
            ],
            hidden=("namespace", "run", "Value #D"),
            sort=("Firing", True),
            size=(14, 8),
        ),
        graph(
            "GPU-hours stalled",
            "By kind of finding, since the run began. Time under two findings counts for both.",
            query(f"{RUN.latest('stallwatch_stalled_gpu_seconds_total', 'kind')} / 3600", "{{kind}}"),
            unit="suffix:GPU-h",
            size=(10, 8),
            defaults={"min": 0, "decimals": 2},
        ),
    ]


def _data() -> list[Json]:
    return [
        row("Data that the judgement rests on"),
        graph(
            "Steps received",
            "Steps of all ranks a second, each counted once. It falls to 0 when the run stands still or its agents are cut off.",
            query(
                f"max by (namespace, run) ({RUN.rate('stallwatch_ingest_run_steps_total')})", "steps of ranks"
            ),
            unit="suffix:steps/s",
            size=(8, 8),
            defaults={"min": 0},
        ),
        graph(
            "Steps lost or late",
            "Missing: between the first and last of a rank, and not come. Dropped: agents had no room left for them, by reason. "
            "Repeated: batches that came again after a reconnect and did not count.",
            query(RUN.latest("stallwatch_ingest_run_missing_steps"), "missing"),
            query(RUN.latest("stallwatch_agent_dropped_total", "reason"), "dropped: {{reason}}"),
            query(RUN.latest("stallwatch_ingest_run_duplicate_batches_total"), "repeated batches"),
            unit="short",
            size=(8, 8),
            defaults={"min": 0, "decimals": 0},
        ),
        table(
            "What the run is",
            "As its ranks declared it.",
            query(
                RUN.latest(
                    "stallwatch_run_info",
                    *("model", "optimizer", "parallelism", "backend", "framework", "torch_version"),
                    "world_size",
                ),
                table=True,
            ),
            columns=[
                ("model", {"displayName": "Model"}),
                ("optimizer", {"displayName": "Optimizer"}),
                ("parallelism", {"displayName": "Parallelism"}),
                ("backend", {"displayName": "Backend"}),
                ("world_size", {"displayName": "Ranks"}),
                ("framework", {"displayName": "Framework"}),
                ("torch_version", {"displayName": "PyTorch"}),
            ],
            hidden=("namespace", "run", "Value"),
            sort=("Model", False),
            size=(8, 8),
        ),
    ]
