"""A read model for the HTTP application: analyses by run, as the service would show them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from support.http_server import serving


class Analyses:
    """Shows analyses; what a test wants otherwise it puts into `shown`, by run and method."""

    def __init__(self, analyses: Mapping[str, RunAnalysis]) -> None:
        self.analyses = dict(analyses)
        self.shown: dict[tuple[str, str], Any] = {}

    async def views(self):
        """All runs."""
        return [self._get(run, "view") for run in self.analyses]

    async def view(self, run):
        """One run."""
        return self._get(run, "view") if run in self.analyses else None

    async def findings(self, run):
        """Its findings."""
        return self._get(run, "findings")

    async def ranks(self, run):
        """Its ranks."""
        return self._get(run, "ranks")

    async def events(self, run):
        """What changed."""
        return self._get(run, "events")

    async def states(self, run):
        """What it was called."""
        return self._get(run, "states")

    async def series_names(self, run):
        """Its series."""
        return self._get(run, "series_names")

    async def series(self, run, name, first, last, points):
        """One series."""
        return self.analyses[run].series(name, first, last, points)

    def _get(self, run: str, what: str) -> Any:
        given = self.shown.get((run, what))
        return getattr(self.analyses[run], what)() if given is None else given


@contextmanager
def pages(model: Analyses, links: Links | None = None):
    """A client of the application over the model."""

    async def problems():
        return []

    with serving(create_app(model, lambda: Exposed([], ()), problems, links=links)) as client:
        yield client
