"""An alert: a finding that people are told of, and the events that tell them."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.alerts.naming import alert_name
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RunView

FIRING, RESOLVED = "firing", "resolved"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What an event says of the run."""

    run: str
    state: str | None = None
    step: int | None = None
    world_size: int | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """One finding's alert, from the moment it was called to the moment it was over."""

    finding: Finding
    """As it was last seen."""
    started_at: float
    """Unix seconds."""
    ended_at: float | None = None
    told: bool = False
    """Whether receivers have been told that it fires, and not yet that it is over."""

    @property
    def id(self) -> str:
        """That of the finding."""
        return self.finding.id

    @property
    def name(self) -> str:
        """As in Prometheus."""
        return alert_name(self.finding.kind)

    @property
    def status(self) -> str:
        """`firing` or `resolved`."""
        return FIRING if self.ended_at is None else RESOLVED


@dataclass(frozen=True, slots=True)
class Event:
    """An alert has begun to fire, or is over."""

    id: str
    status: str
    at: float
    """Unix seconds."""
    started_at: float
    ended_at: float | None
    finding: Finding
    run: RunSummary
    pending: tuple[int, ...] = ()
    """Indices of the webhooks that have not been told yet."""


def summarize(view: RunView) -> RunSummary:
    """What an event says of this run."""
    return RunSummary(view.run, view.state, view.step, view.world_size)
