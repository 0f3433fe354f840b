"""Grafana dashboards as code.

Plain JSON made by small functions: `stallwatch dashboards` has to work for users, who have no generator of Grafana's installed,
and the fields are few. What a generator's types would catch, the tests let TypeScript catch against Grafana's own schema.
"""

from __future__ import annotations

import json

from stallwatch.detector.alerts.naming import DEFAULT_EXTERNAL_URL
from stallwatch.detector.mixin.grafana.fields import Json
from stallwatch.detector.mixin.grafana.overview import UID as OVERVIEW
from stallwatch.detector.mixin.grafana.overview import overview
from stallwatch.detector.mixin.grafana.run import UID as RUN
from stallwatch.detector.mixin.grafana.run import run

__all__ = ["OVERVIEW", "RUN", "dashboards_of", "file_text"]


def dashboards_of(detector_url: str = DEFAULT_EXTERNAL_URL) -> dict[str, Json]:
    """All dashboards by their uid; their links lead to the detector's page at `detector_url`."""
    url = detector_url.rstrip("/")
    return {OVERVIEW: overview(url), RUN: run(url)}


def file_text(board: Json) -> str:
    """As it is kept in a file: one field a line, so that a change is seen for what it is."""
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"
