"""Alerts of a run that was replayed, over a real store and with real receivers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stallwatch.detector.alerts.center import AlertCenter
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.settings import AlertSettings
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.http.render import finding_json, plain
from stallwatch.detector.store import Store, sqlite_url
from support.analyzer_inputs import a_run
from support.monitoring import Receiver

RUN = "team/run:1"
LINKS = Links("https://stallwatch.example.com")


class WatchedRun:
    """One run with a finding that fires until it is told not to."""

    def __init__(self) -> None:
        analysis = replay_inputs(a_run(RUN, nan_at_batch=3), "test")
        self.view = analysis.view()
        (self.finding,) = [each for each in analysis.findings() if each.kind == "non_finite"]
        self.finding = replace(self.finding, status="firing", resolved_step=None, resolved_at=None)
        self.is_shown = True

    def resolve(self) -> None:
        """The finding is over."""
        self.finding = replace(self.finding, status="resolved", resolved_step=99, resolved_at=0.0)

    def shown(self):
        """What the service shows."""
        firing = (self.finding,) if self.finding.status == "firing" else ()
        return [(replace(self.view, findings=firing), (self.finding,))] if self.is_shown else []


@pytest.fixture
def watched() -> WatchedRun:
    """The run."""
    return WatchedRun()


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    opened = Store(sqlite_url(tmp_path))
    opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
async def center(store, watched):
    """Starts centers over the same store, one after another; the last one is stopped at the end."""
    running: list[AlertCenter] = []

    async def start(**settings) -> AlertCenter:
        while running:
            await running.pop().stop()
        made = AlertCenter(
            store,
            AlertSettings.model_validate(settings),
            LINKS,
            lambda finding: plain(finding_json(finding)),
            watched.shown,
        )
        await made.start()
        running.append(made)
        return made

    yield start
    while running:
        await running.pop().stop()


@pytest.fixture
def receiver():
    """A webhook's end."""
    with Receiver() as one:
        yield one
