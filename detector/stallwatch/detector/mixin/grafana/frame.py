"""What both dashboards have around their panels: variables, annotations, links."""

from __future__ import annotations

from collections.abc import Sequence

from stallwatch.detector.mixin.grafana.fields import Json
from stallwatch.detector.mixin.grafana.panels import DATASOURCE, arrange

SCHEMA_VERSION = 41
"""Of Grafana 11.6, the newest that Grafana's own generators write; every newer Grafana migrates it when it loads it."""
TAG = "stallwatch"
_INFO = "stallwatch_run_info"
_ALL = {"text": "All", "value": "$__all", "selected": True}
_ON_TIME_RANGE_CHANGED = 2
"""Runs and targets are asked for again when the time range changes: one that has ended is still in an earlier range."""


def datasource_variable() -> Json:
    """Which Prometheus."""
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "description": "The Prometheus that scrapes the detector.",
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "hide": 0,
    }


def label_variable(name: str, label: str, description: str, query: str, *, several: bool = True) -> Json:
    """Values of a label; with `several` any number of them, and all by default."""
    choice = {"includeAll": True, "allValue": ".*", "current": _ALL} if several else {"includeAll": False}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": query,
        "refresh": _ON_TIME_RANGE_CHANGED,
        "sort": 1,
        "multi": several,
        "hide": 0,
        **choice,
    }


def detector_variable(url: str) -> Json:
    """The address of the detector's own page, for links; a text that anybody can change."""
    return {
        "type": "textbox",
        "name": "detector",
        "label": "Detector",
        "description": "Where the detector's own page is reached: links to findings and runbooks begin with it.",
        "query": url,
        "current": {"text": url, "value": url, "selected": True},
        "hide": 0,
    }


def variables(url: str, *, one_run: bool) -> list[Json]:
    """All of a dashboard, each narrowing those after it."""
    targets = 'namespace=~"$namespace", job=~"$job"'
    return [
        datasource_variable(),
        label_variable(
            "namespace",
            "Namespace",
            "Kubernetes namespace of the detector; All where the scrape adds no such label.",
            f"label_values({_INFO}, namespace)",
        ),
        label_variable(
            "job",
            "Job",
            "Prometheus's name for the detectors that it scrapes.",
            f'label_values({_INFO}{{namespace=~"$namespace"}}, job)',
        ),
        label_variable(
            "run",
            "Run",
            "The training run." if one_run else "Training runs.",
            f"label_values({_INFO}{{{targets}}}, run)",
            several=not one_run,
        ),
        detector_variable(url),
    ]


def annotation(name: str, expression: str, color: str, *, title: str, text: str, tags: Sequence[str]) -> Json:
    """Marks over all graphs, for as long as the expression has a value above 0.

    The query stands there twice: Grafana up to 10 reads it from the annotation itself, later ones from its target.
    """
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "name": name,
        "expr": expression,
        "target": {"expr": expression, "refId": "Anno"},
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": ",".join(tags),
    }


def link(title: str, url: str, tooltip: str, *, icon: str = "dashboard", keep_time: bool = True) -> Json:
    """A link above the panels."""
    return {
        "type": "link",
        "title": title,
        "url": url,
        "tooltip": tooltip,
        "icon": icon,
        "tags": [],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": keep_time,
        "targetBlank": False,
    }


def dashboard(
    uid: str,
    title: str,
    description: str,
    *,
    since: str,
    variables: Sequence[Json],
    annotations: Sequence[Json],
    links: Sequence[Json],
    panels: Sequence[Json],
) -> Json:
    """The whole of it. It does not refresh by itself: whoever wants that picks an interval."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "",
        "time": {"from": since, "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(variables)},
        "annotations": {"list": list(annotations)},
        "links": list(links),
        "panels": arrange(panels),
    }
