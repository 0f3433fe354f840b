"""What is sent: to Alertmanagers as the rules would have it, to webhooks as JSON or as a line of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from stallwatch.detector.alerts.model import FIRING, Alert, Event
from stallwatch.detector.alerts.naming import Links, alert_name, description, summary
from stallwatch.detector.core.findings import Finding

EVENT_VERSION = 1
"""Of the JSON body of a webhook: fields are added, and none is changed, within a version."""
RenderFinding = Callable[[Finding], Any]
"""A finding as the API gives it."""


def labels_of(finding: Finding) -> tuple[tuple[str, str], ...]:
    """What makes an alert this one, as for the rule: no value of it."""
    return (
        ("alertname", alert_name(finding.kind)),
        ("kind", finding.kind),
        ("run", finding.run),
        ("severity", finding.severity),
    )


def alertmanager_alert(alert: Alert, links: Links, ends_at: float) -> dict[str, Any]:
    """An alert for Alertmanager's API v2; `ends_at` in Unix seconds."""
    finding = alert.finding
    return {
        "labels": dict(labels_of(finding)),
        "annotations": {
            "summary": summary(finding.kind),
            "description": description(finding.run, finding.reason),
            "runbook_url": links.runbook(finding.kind),
            "dashboard_url": links.dashboard(finding.run),
        },
        "startsAt": timestamp(alert.started_at),
        "endsAt": timestamp(max(ends_at, alert.started_at)),
        "generatorURL": links.finding(finding.run, finding.id),
    }


def event_body(event: Event, links: Links, render: RenderFinding) -> dict[str, Any]:
    """An event for a webhook, whole."""
    finding = event.finding
    return {
        "version": EVENT_VERSION,
        "event": event.id,
        "status": event.status,
        "alert": alert_name(finding.kind),
        "text": finding.reason,
        "started_at": timestamp(event.started_at),
        "ended_at": None if event.ended_at is None else timestamp(event.ended_at),
        "run": asdict(event.run),
        "finding": render(finding),
        "links": {
            "finding": links.finding(finding.run, finding.id),
            "run": links.run(finding.run),
            "runbook": links.runbook(finding.kind),
            "dashboard": links.dashboard(finding.run),
        },
    }


def slack_body(event: Event, links: Links) -> dict[str, Any]:
    """An event as text, in the markup that Slack began and others read."""
    finding = event.finding
    head = f"{finding.severity.upper()} {alert_name(finding.kind)}"
    if event.status != FIRING:
        head = f"RESOLVED {alert_name(finding.kind)}"
    return {
        "text": f"*{head}* in run `{finding.run}`: {_escaped(finding.reason)}\n"
        f"<{links.finding(finding.run, finding.id)}|Finding> | <{links.runbook(finding.kind)}|Runbook> | "
        f"<{links.dashboard(finding.run)}|Dashboard>"
    }


def timestamp(seconds: float) -> str:
    """Unix seconds as RFC 3339."""
    return (
        datetime.fromtimestamp(seconds, timezone.utc)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
