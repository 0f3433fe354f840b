"""Panels of a run about its steps: phases, waiting for each other, and the rank behind."""

from __future__ import annotations

from stallwatch.detector.core.views import EXPOSED_BUCKETS
from stallwatch.detector.mixin.grafana.fields import Json
from stallwatch.detector.mixin.grafana.panels import graph, query, row, timeline
from stallwatch.detector.mixin.grafana.promql import Scope

_SECONDS = "stallwatch_step_seconds"


def step_panels(run: Scope) -> list[Json]:
    """The row Steps."""

    def rate(part: str, **wanted: str) -> str:
        return f"sum by (namespace, run, phase) ({run.rate(_SECONDS + part, **wanted)})"

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
            "Long phases",
            "Share of the ranks' steps in which a phase took longer than 0.1 s and 1 s: a share that comes up while the mean stays has stragglers or single slow steps.",
            *(
                query(
                    f"1 - {rate('_bucket', le=str(bound))} / {rate('_count')}",
                    f"{{{{phase}}}} above {bound:g} s",
                )
                for bound in EXPOSED_BUCKETS
            ),
            unit="percentunit",
            defaults={"min": 0, "max": 1},
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
