"""All alerts, and what is to be told of them. No clock and no I/O: time is an argument, saving is the caller's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stallwatch.detector.alerts.model import FIRING, RESOLVED, Alert, Event, RunSummary, summarize
from stallwatch.detector.alerts.silences import Silence, silenced_by
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RunView

UNSEEN_SECONDS = 120.0
"""How long an alert goes on when its finding is not seen any more: longer than a detector or an analyzer takes to start."""


@dataclass(slots=True)
class AlertBook:
    """Follows the findings of the watched runs.

    What counts is what is so now, and not who said it when: a detector that comes back finds its alerts in the store and its
    findings in the analysis, and tells nobody what they know.
    """

    firing: dict[str, Alert] = field(default_factory=dict)
    """By finding."""
    silences: dict[str, Silence] = field(default_factory=dict)
    webhooks: int = 0
    """How many are to be told of each event."""
    _runs: dict[str, RunSummary] = field(default_factory=dict)
    _seen_at: dict[str, float] = field(default_factory=dict)
    _changed: dict[str, Alert] = field(default_factory=dict)
    _events: list[Event] = field(default_factory=list)

    def restore(self, alerts: Iterable[Alert], silences: Iterable[Silence], now: float) -> None:
        """Go on with what was stored."""
        self.firing = {alert.id: alert for alert in alerts}
        self.silences = {silence.id: silence for silence in silences}
        self._seen_at = dict.fromkeys(self.firing, now)

    def observe(self, view: RunView, findings: Sequence[Finding], now: float) -> None:
        """Take what a watched run looks like."""
        self._runs[view.run] = summarize(view)
        for finding in view.findings:
            known = self.firing.get(finding.id)
            self._seen_at[finding.id] = now
            if known is None:
                # Analyses have clocks of their own; nothing begins in the future.
                self._put(Alert(finding, started_at=min(finding.opened_at or now, now)))
            elif known.finding != finding:
                # Numbers move at every look: what is stored needs to follow only what an alert is.
                moved = known.finding.severity != finding.severity
                self._put(replace(known, finding=finding), changed=moved)
        # A finding that is in neither list was lost with an analyzer that will see it again: it is not over.
        for finding in findings:
            if finding.status == RESOLVED and finding.id in self.firing:
                self._end(replace(self.firing[finding.id], finding=finding), now)

    def pass_time(self, now: float) -> None:
        """End what nobody sees any more, and tell what is to be told now."""
        for identity, alert in list(self.firing.items()):
            if now - self._seen_at.get(identity, now) > UNSEEN_SECONDS:
                self._end(alert, now)
            elif not alert.told and self.silence_of(alert, now) is None:
                told = replace(alert, told=True)
                self._put(told)
                self._tell(told, FIRING, now)
        for identity in [each.id for each in self.silences.values() if not each.is_active(now)]:
            del self.silences[identity]
        runs = {alert.finding.run for alert in self.firing.values()}
        self._runs = {run: summary for run, summary in self._runs.items() if run in runs}

    def seen(self, since: float) -> Mapping[str, float]:
        """Alerts that were seen to fire since then, with when they were seen last."""
        return {
            identity: self._seen_at[identity]
            for identity in self.firing
            if self._seen_at.get(identity, 0.0) >= since
        }

    def unseen(self, since: float) -> Mapping[str, float]:
        """Alerts that were not, with when they were seen last."""
        return {
            identity: self._seen_at[identity]
            for identity in self.firing
            if self._seen_at.get(identity, since) < since
        }

    def forget(self, alerts: Iterable[str]) -> None:
        """Let go of alerts that are another detector's, and tell nobody."""
        for identity in alerts:
            self.firing.pop(identity, None)
            self._seen_at.pop(identity, None)
            self._changed.pop(identity, None)

    def silence_of(self, alert: Alert, now: float) -> Silence | None:
        """What keeps an alert quiet now."""
        return silenced_by(self.silences.values(), alert.finding.run, alert.finding.kind, now)

    def audible(self, now: float) -> list[Alert]:
        """Alerts that are firing and not silenced."""
        return [alert for alert in self.firing.values() if self.silence_of(alert, now) is None]

    def silenced(self, now: float) -> frozenset[str]:
        """Findings that fire and are kept quiet."""
        return frozenset(
            alert.id for alert in self.firing.values() if self.silence_of(alert, now) is not None
        )

    def take_changes(self) -> tuple[list[Alert], list[Event]]:
        """Alerts to store and events to tell since the last call."""
        changed, events = list(self._changed.values()), self._events
        self._changed, self._events = {}, []
        return changed, events

    def _put(self, alert: Alert, *, changed: bool = True) -> None:
        self.firing[alert.id] = alert
        if changed:
            self._changed[alert.id] = alert

    def _end(self, alert: Alert, now: float) -> None:
        finding = alert.finding
        if finding.status != RESOLVED:
            finding = replace(finding, status=RESOLVED, resolved_at=now)
        ended = replace(alert, finding=finding, ended_at=max(now, alert.started_at), told=False)
        del self.firing[alert.id]
        self._seen_at.pop(alert.id, None)
        self._changed[alert.id] = ended
        if alert.told:
            self._tell(ended, RESOLVED, now)

    def _tell(self, alert: Alert, status: str, now: float) -> None:
        run = alert.finding.run
        self._events.append(
            Event(
                id=_event_id(alert, status),
                status=status,
                at=now,
                started_at=alert.started_at,
                ended_at=alert.ended_at,
                finding=alert.finding,
                run=self._runs.get(run, RunSummary(run)),
                pending=tuple(range(self.webhooks)),
            )
        )


def _event_id(alert: Alert, status: str) -> str:
    """The same for all detectors that see this alert: the first of them tells it."""
    # Not from when it started, which each detector bounds by a clock of its own.
    return hashlib.sha256(f"{alert.id} {alert.finding.opened_at!r} {status}".encode()).hexdigest()[:32]
