"""Dashboards taken apart: their panels and queries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stallwatch.detector.mixin.grafana import dashboards_of

BOARDS = dashboards_of()


@dataclass(frozen=True)
class Query:
    """One query of a dashboard, wherever it stands."""

    board: str
    place: str
    """Panel and letter, or the annotation's name."""
    expression: str
    instant: bool
    legend: str = ""

    def __str__(self) -> str:
        return f"{self.board} {self.place}"


def panels(board: str) -> list[dict[str, Any]]:
    """Panels that show something: all but the headings."""
    return [panel for panel in BOARDS[board]["panels"] if panel["type"] != "row"]


def _queries() -> tuple[Query, ...]:
    found = []
    for board, content in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                place = f"{panel['title']} {target['refId']}"
                found.append(
                    Query(board, place, target["expr"], target["instant"], target.get("legendFormat", ""))
                )
        for annotation in content["annotations"]["list"]:
            legend = annotation["titleFormat"] + annotation["textFormat"]
            found.append(Query(board, annotation["name"], annotation["expr"], instant=False, legend=legend))
    return tuple(found)


QUERIES = _queries()
"""Every query of every dashboard, annotations included."""


def filled(expression: str, values: Mapping[str, str]) -> str:
    """An expression with Grafana's variables replaced as Grafana does: the longest name first. None may be left."""
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${name}", values[name])
    assert not re.search(r"\$\w|\[\[", expression), f"a variable that nobody fills in: {expression}"
    return expression
