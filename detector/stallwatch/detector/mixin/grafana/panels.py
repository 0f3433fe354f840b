"""Panels, as the JSON that Grafana stores: queries, a field's settings and the options of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from stallwatch.detector.mixin.grafana.fields import Json, thresholds

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRID_COLUMNS = 24
_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def query(expression: str, legend: str = "", *, instant: bool = False, table: bool = False) -> Json:
    """One query; over the time range unless `instant`, which means at its end."""
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expression,
        "format": "table" if table else "time_series",
        "instant": instant or table,
        "range": not (instant or table),
        **({"legendFormat": legend} if legend else {}),
    }


def _legend(*calcs: str, shown: bool = True) -> Json:
    return {"calcs": list(calcs), "displayMode": "list", "placement": "bottom", "showLegend": shown}


def panel(
    kind: str,
    title: str,
    description: str,
    queries: Sequence[Json],
    *,
    unit: str,
    size: tuple[int, int],
    options: Json,
    defaults: Json | None = None,
    overrides: Sequence[Json] = (),
    transformations: Sequence[Json] = (),
) -> Json:
    """A panel of any kind; `size` is its width and height in the grid."""
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": size[0], "h": size[1], "x": 0, "y": 0},
        "targets": [{**one, "refId": letter} for letter, one in zip(ascii_uppercase, queries, strict=False)],
        "fieldConfig": {"defaults": {"unit": unit, **(defaults or {})}, "overrides": list(overrides)},
        "options": options,
        **({"transformations": list(transformations)} if transformations else {}),
    }


def graph(
    title: str,
    description: str,
    *queries: Json,
    unit: str,
    size: tuple[int, int] = (12, 8),
    logarithmic: bool = False,
    custom: Json | None = None,
    defaults: Json | None = None,
    overrides: Sequence[Json] = (),
) -> Json:
    """Lines over time. Nothing is stacked, and a gap in the data is a gap in the line."""
    drawing: Json = {"lineWidth": 1, "fillOpacity": 0, "showPoints": "auto", "spanNulls": False}
    if logarithmic:
        drawing["scaleDistribution"] = {"type": "log", "log": 10}
    return panel(
        "timeseries",
        title,
        description,
        queries,
        unit=unit,
        size=size,
        options={
            "legend": _legend("lastNotNull"),
            "tooltip": {"mode": "multi", "sort": "none"},
        },
        defaults={"custom": {**drawing, **(custom or {})}, **(defaults or {})},
        overrides=overrides,
    )


def stat(
    title: str,
    description: str,
    *queries: Json,
    unit: str,
    size: tuple[int, int] = (3, 4),
    text_mode: str = "auto",
    background: bool = False,
    defaults: Json | None = None,
    overrides: Sequence[Json] = (),
) -> Json:
    """Big numbers: the last one of the time range, so that a run that has ended still shows where it did."""
    return panel(
        "stat",
        title,
        description,
        queries,
        unit=unit,
        size=size,
        options={
            "colorMode": "background" if background else "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "percentChangeColorMode": "standard",
            "reduceOptions": _LAST,
            "showPercentChange": False,
            "textMode": text_mode,
            "wideLayout": True,
        },
        defaults={"thresholds": thresholds((None, "text")), **(defaults or {})},
        overrides=overrides,
    )


def timeline(
    title: str,
    description: str,
    *queries: Json,
    mappings: Sequence[Json],
    size: tuple[int, int],
    unit: str = "none",
    legend: bool = True,
    defaults: Json | None = None,
) -> Json:
    """One bar a series, coloured by its value."""
    return panel(
        "state-timeline",
        title,
        description,
        queries,
        unit=unit,
        size=size,
        options={
            "alignValue": "left",
            "legend": _legend(shown=legend),
            "mergeValues": True,
            "perPage": 20,
            "rowHeight": 0.9,
            "showValue": "auto",
            "tooltip": {"mode": "single", "sort": "none"},
        },
        defaults={
            "custom": {"fillOpacity": 80, "lineWidth": 0},
            "color": {"mode": "thresholds"},
            "thresholds": thresholds((None, "text")),
            "mappings": list(mappings),
            **(defaults or {}),
        },
    )


def bars(
    title: str,
    description: str,
    *queries: Json,
    unit: str,
    size: tuple[int, int],
    defaults: Json | None = None,
) -> Json:
    """One horizontal bar a series."""
    return panel(
        "bargauge",
        title,
        description,
        queries,
        unit=unit,
        size=size,
        options={
            "displayMode": "basic",
            "legend": _legend(shown=False),
            "maxVizHeight": 32,
            "minVizHeight": 16,
            "minVizWidth": 8,
            "namePlacement": "left",
            "orientation": "horizontal",
            "reduceOptions": _LAST,
            "showUnfilled": True,
            "sizing": "auto",
            "valueMode": "color",
        },
        defaults={"min": 0, "thresholds": thresholds((None, "orange")), **(defaults or {})},
    )


def table(
    title: str,
    description: str,
    *queries: Json,
    columns: Sequence[tuple[str, Json]],
    sort: tuple[str, bool],
    size: tuple[int, int],
    unit: str = "none",
    hidden: Sequence[str] = (),
    defaults: Json | None = None,
) -> Json:
    """Rows merged from the queries' labels; `columns` in their order, each with its settings, `sort` by a shown name.

    The value of query A is the column `Value #A` once there are more queries than one, and `Value` before.
    """
    left_out = dict.fromkeys(("Time", *hidden), True)
    order = {name: index for index, (name, _settings) in enumerate(columns)}
    transformations: list[Json] = [{"id": "merge", "options": {}}] if len(queries) > 1 else []
    transformations.append(
        {"id": "organize", "options": {"excludeByName": left_out, "indexByName": order, "renameByName": {}}}
    )
    return panel(
        "table",
        title,
        description,
        queries,
        unit=unit,
        size=size,
        options={
            "cellHeight": "sm",
            "showHeader": True,
            "sortBy": [{"displayName": sort[0], "desc": sort[1]}],
        },
        defaults={"custom": {"align": "auto", "filterable": True}, "noValue": "-", **(defaults or {})},
        overrides=[
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [{"id": key, "value": value} for key, value in settings.items()],
            }
            for name, settings in columns
            if settings
        ],
        transformations=transformations,
    )


def row(title: str) -> Json:
    """A heading over the panels that follow."""
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"w": GRID_COLUMNS, "h": 1, "x": 0, "y": 0},
        "panels": [],
    }


def arrange(panels: Sequence[Json]) -> list[Json]:
    """Number the panels and put them side by side, in lines as high as their highest panel."""
    placed: list[dict[str, Any]] = []
    x = y = height = 0
    for number, one in enumerate(panels, 1):
        position = one["gridPos"]
        if x + position["w"] > GRID_COLUMNS:
            x, y, height = 0, y + height, 0
        placed.append({"id": number, **one, "gridPos": {**position, "x": x, "y": y}})
        x += position["w"]
        height = max(height, position["h"])
    return placed
