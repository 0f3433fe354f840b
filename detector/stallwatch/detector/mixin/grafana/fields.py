"""How values of a panel look: names for numbers, colours, links, and what differs from column to column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stallwatch.detector.core.views import RUN_STATES
from stallwatch.detector.mixin.grafana.promql import SEVERITIES

Json = dict[str, Any]

STATE_COLORS = {
    "warming_up": "blue",
    "improving": "green",
    "slow": "yellow",
    "plateau": "orange",
    "oscillating": "dark-orange",
    "diverging": "red",
    "hung": "dark-red",
    "finished": "text",
    "lost": "purple",
}
SEVERITY_COLORS = {"info": "blue", "warning": "orange", "critical": "red"}

RUN_DASHBOARD = "/d/stallwatch-run"
_HERE = "${datasource:queryparam}&${namespace:queryparam}&${job:queryparam}&${__url_time_range}"


def spoken(name: str) -> str:
    """A word of the vocabulary as people write it."""
    return name.replace("_", " ")


def value_map(rows: Iterable[tuple[int, str, str]]) -> list[Json]:
    """Text and colour for numbers."""
    options = {
        str(value): {"text": text, "color": color, "index": index}
        for index, (value, text, color) in enumerate(rows)
    }
    return [{"type": "value", "options": options}]


STATES = value_map((number, spoken(state), STATE_COLORS[state]) for number, state in enumerate(RUN_STATES))
FIRING = value_map(
    [(0, "not now", "text")]
    + [(number, severity, SEVERITY_COLORS[severity]) for number, severity in enumerate(SEVERITIES, 1)]
)


def named_severity() -> list[Json]:
    """Colours for a column that holds the word."""
    options = {
        severity: {"text": severity, "color": color, "index": index}
        for index, (severity, color) in enumerate(SEVERITY_COLORS.items())
    }
    return [{"type": "value", "options": options}]


def thresholds(*steps: tuple[float | None, str]) -> Json:
    """Colours from a value on; the first from minus infinity."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def override(name: str, **properties: Any) -> Json:
    """Other settings for one series or column; `__` in a property's name stands for a dot."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def on_right_axis(query: str, unit: str) -> Json:
    """Another unit for the lines of one query, by its letter, on an axis of their own."""
    return {
        "matcher": {"id": "byFrameRefID", "options": query},
        "properties": [
            {"id": "unit", "value": unit},
            {"id": "custom.axisPlacement", "value": "right"},
        ],
    }


def fixed(color: str) -> Json:
    """One colour, whatever the value."""
    return {"mode": "fixed", "fixedColor": color}


def color_background() -> Json:
    """A table's cell in the colour of its value."""
    return {"type": "color-background", "mode": "basic"}


def link(title: str, url: str) -> list[Json]:
    """Where a click on a value leads."""
    return [{"title": title, "url": url, "targetBlank": False}]


def run_link(run: str) -> list[Json]:
    """To the dashboard of a run, with data source, target and time kept; `run` is how the panel names it."""
    return link("Open the run", f"{RUN_DASHBOARD}?var-run=${{{run}:percentencode}}&{_HERE}")


def runbook_link(kind: str) -> list[Json]:
    """To what the detector's page says of a kind of finding."""
    return link("What it means and what to do", f"${{detector:raw}}/runbooks/${{{kind}:percentencode}}")
