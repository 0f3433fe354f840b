"""Panels of a run about its steps: phases, waiting for each other, and the rank behind."""

from __future__ import annotations

from stallwatch.detector.mixin.grafana.fields import Json
from stallwatch.detector.mixin.grafana.panels import graph, query, row, timeline
from stallwatch.detector.mixin.grafana.promql import Scope

_SECONDS = "stallwatch_step_seconds"
_TAIL = 0.99


def step_panels(run: Scope) -> list[Json]:
    """The row Steps."""

    def rate(part: str, *labels: str) -> str:
        return f"sum by ({', '.join(('namespace', 'run', 'phase', *labels))}) ({run.rate(_SECONDS + part)})"

    return [
        row("Steps"),
        graph(
            "Phases of a step, mean",
            "Seconds of a phase in one step of one rank, mean over ranks. Input that grows: data comes late. Sync that grows: ranks wait for each other.",
            query(f"{rate('_sum')} / {rate('_count')}", "{{phase}}"),
            unit="s",
            defaults={"min": 0},
        ),
        graph(
            "Phases of a step, 99th percentile",
            "Of the same, from the histogram: what its slowest ranks and steps take. A phase that is far above its mean has stragglers.",
            query(f"histogram_quantile({_TAIL}, {rate('_bucket', 'le')})", "{{phase}}"),
            unit="s",
            defaults={"min": 0},
        ),
        graph(
            "Waiting for other ranks",
            "Exposed wait in one step, quantiles over ranks. The rank that waits least holds the others up.",
            query(
                run.latest("stallwatch_sync_wait_seconds", "quantile"),
                "quantile {{quantile}}",
            ),
            unit="s",
            defaults={"min": 0},
        ),
        graph(
            "Lag of the hindmost rank",
            "Steps that the last rank is behind the first, as they report. A step or two is reporting; more, and the ranks are apart.",
            query(run.latest("stallwatch_rank_lag_steps"), "lag"),
            unit="suffix:steps",
            defaults={"min": 0, "decimals": 0},
        ),
        timeline(
            "Worst rank over time",
            "Number of the rank that is furthest behind. One that stays is worth a look at its node; one that changes is chance.",
            query(run.latest("stallwatch_run_worst_rank"), "rank"),
            mappings=[],
            size=(24, 4),
            legend=False,
            defaults={"color": {"mode": "continuous-BlPu"}, "noValue": "none"},
        ),
    ]
