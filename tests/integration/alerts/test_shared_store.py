"""Several detectors on one store: one voice, one set of silences, and nobody ends what another one sees."""

from __future__ import annotations

import pytest

from stallwatch.detector.alerts import book, center
from stallwatch.detector.alerts.center import AlertCenter
from stallwatch.detector.alerts.ledger import Ledger
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.settings import AlertSettings
from stallwatch.detector.http.render import finding_json, plain
from support.waiting import until


@pytest.fixture
async def detector(store, receiver):
    """Starts one more detector with that webhook, over what it shows."""
    running = []

    async def start(shown) -> AlertCenter:
        settings = AlertSettings.model_validate({"webhooks": [{"url": receiver.url}]})
        made = AlertCenter(store, settings, Links(), lambda finding: plain(finding_json(finding)), shown)
        await made.start()
        running.append(made)
        return made

    yield start
    for each in running:
        await each.stop()


async def test_two_detectors_that_watch_a_run_tell_once(detector, watched, receiver, store):
    """That it fires, and that it is over."""
    await detector(watched.shown)
    await detector(watched.shown)
    await until("the event", lambda: receiver.bodies)
    watched.resolve()
    await until("the end", lambda: len(receiver.bodies) > 1)
    await until("that both know", lambda: not Ledger(store).firing() and not Ledger(store).pending())
    assert [body["status"] for body in receiver.bodies] == ["firing", "resolved"]


async def test_a_detector_that_does_not_watch_a_run_does_not_end_its_alert(
    detector, watched, receiver, store, monkeypatch
):
    """One that comes later finds the alert in the store, and leaves it to the one that sees it."""
    monkeypatch.setattr(center, "SHARE_SECONDS", 0.2)
    monkeypatch.setattr(center, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(book, "UNSEEN_SECONDS", 30.0)
    await detector(watched.shown)
    await until("the event", lambda: receiver.bodies)
    late = await detector(list)
    assert late.counts()[0] == 1
    await until("that it lets go", lambda: late.counts()[0] == 0)
    assert [body["status"] for body in receiver.bodies] == ["firing"]
    assert len(Ledger(store).firing()) == 1


async def test_who_is_left_alone_with_an_alert_ends_it(detector, watched, receiver, monkeypatch):
    """The run has left memory, and no other detector sees it: what was its own touch is no other's."""
    monkeypatch.setattr(center, "SHARE_SECONDS", 0.2)
    monkeypatch.setattr(center, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(book, "UNSEEN_SECONDS", 4.0)
    await detector(watched.shown)
    await until("the event", lambda: receiver.bodies)
    watched.is_shown = False
    await until("the end", lambda: len(receiver.bodies) > 1)
    assert [body["status"] for body in receiver.bodies] == ["firing", "resolved"]


async def test_a_silence_holds_on_all_detectors(detector, watched, monkeypatch):
    """Set at one, heeded by the other; so is its end."""
    monkeypatch.setattr(center, "SHARE_SECONDS", 0.2)
    monkeypatch.setattr(center, "LOOK_SECONDS", 0.1)
    here, there = await detector(watched.shown), await detector(watched.shown)
    silence = await here.silence(watched.finding.run, None, 60.0, "known")
    await until("the other", there.silenced)
    assert here.silenced()
    await there.unsilence(silence.id)
    await until("the first", lambda: not here.silenced())
