"""Alerts are pushed to a real Alertmanager: as the rule would, again and again, until they are over or silenced."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from support.monitoring import Alertmanager
from support.reserved import reserve_port
from support.waiting import until


@pytest.fixture
def alertmanager(tmp_path):
    """One that notifies nobody."""
    with Alertmanager(tmp_path / "alertmanager") as running:
        yield running


def ends_in(alert: dict) -> float:
    """Seconds until an alert ends by itself."""
    ends = datetime.fromisoformat(alert["endsAt"].replace("Z", "+00:00"))
    return (ends - datetime.now(timezone.utc)) / timedelta(seconds=1)


async def test_an_alert_has_the_labels_and_annotations_of_the_rule(center, watched, alertmanager):
    """No value is in its labels, and it ends by itself after four intervals."""
    running = await center(alertmanagers=[alertmanager.url], resend_seconds=60)
    (alert,) = await until("the alert", alertmanager.alerts)
    labels = {"run": "team/run:1", "kind": "non_finite", "severity": "critical"}
    assert alert["labels"] == {"alertname": "TrainingNonFinite", **labels}
    assert alert["annotations"] == {
        "summary": "A NaN or an infinity appeared in the loss.",
        "description": f"Run team/run:1: {watched.finding.reason}",
        "runbook_url": "https://stallwatch.example.com/runbooks/non_finite",
        "dashboard_url": "https://stallwatch.example.com/runs/team%2Frun%3A1",
    }
    assert alert["generatorURL"].endswith("/runs/team%2Frun%3A1/findings/team%2Frun%3A1%23non_finite%231")
    assert 200 < ends_in(alert) <= 240
    await until("the count", lambda: running.statistics.alertmanager_sends[0] >= 1)


async def test_an_alert_is_sent_again_and_ends_when_the_finding_does(center, watched, alertmanager):
    """Its end moves on, and then it is gone at once, not only when it would end by itself."""
    await center(alertmanagers=[alertmanager.url], resend_seconds=1)
    (first,) = await until("the alert", alertmanager.alerts)
    await until("a later end", lambda: [a for a in alertmanager.alerts() if a["endsAt"] > first["endsAt"]])
    await center(alertmanagers=[alertmanager.url], resend_seconds=3600)
    await until("a far end", lambda: [a for a in alertmanager.alerts() if ends_in(a) > 3600])
    watched.resolve()
    await until("the end", lambda: not alertmanager.alerts())


async def test_what_ended_while_the_service_was_away_is_resolved(center, watched, alertmanager):
    """The one that comes back knows from the store what was sent."""
    running = await center(alertmanagers=[alertmanager.url], resend_seconds=3600)
    await until("the alert", alertmanager.alerts)
    await running.look()
    watched.resolve()
    await center(alertmanagers=[alertmanager.url], resend_seconds=3600)
    await until("the end", lambda: not alertmanager.alerts())


async def test_a_silence_ends_the_alert_and_its_end_brings_it_back(center, alertmanager):
    """Over an interval that is far too long for either."""
    running = await center(alertmanagers=[alertmanager.url], resend_seconds=3600)
    await until("the alert", alertmanager.alerts)
    silence = await running.silence("team/*", None, 3600, "known")
    await until("silence", lambda: not alertmanager.alerts())
    await running.unsilence(silence.id)
    await until("the alert again", alertmanager.alerts)


async def test_one_alertmanager_that_is_away_does_not_keep_the_other_from_its_alerts(center, alertmanager):
    """Errors and sends are counted for each."""
    running = await center(alertmanagers=[f"http://127.0.0.1:{reserve_port()}", alertmanager.url])
    await until("the alert", alertmanager.alerts)
    await until("the error", lambda: running.statistics.alertmanager_errors[0] >= 1)
    assert running.statistics.alertmanager_errors[1] == 0
