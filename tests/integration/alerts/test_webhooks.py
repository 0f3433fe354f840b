"""Webhooks are told of each event once, also over restarts, with patience that has an end."""

from __future__ import annotations

import asyncio
import logging
import socket

from stallwatch.detector.alerts import webhooks
from stallwatch.detector.alerts.ledger import Ledger
from support.reserved import reserve_port
from support.waiting import until


async def test_an_event_has_the_documented_body(center, watched, receiver):
    """Version, status, the finding as in the API, the run, and links; the end comes as another event."""
    await center(webhooks=[{"url": receiver.url}])
    await until("the event", lambda: receiver.bodies)
    (body,) = receiver.bodies
    assert list(body) == [
        *("version", "event", "status", "alert", "text", "started_at", "ended_at", "run", "finding", "links"),
    ]
    assert (body["version"], body["status"], body["alert"]) == (1, "firing", "TrainingNonFinite")
    assert body["text"] == body["finding"]["reason"] == watched.finding.reason
    assert body["finding"]["id"] == watched.finding.id
    assert body["run"] == {
        "run": "team/run:1",
        "state": watched.view.state,
        "step": watched.view.step,
        "world_size": watched.view.world_size,
    }
    assert set(body["links"]) == {"finding", "run", "runbook", "dashboard"}
    watched.resolve()
    await until("the end", lambda: len(receiver.bodies) == 2)
    assert (receiver.bodies[1]["status"], receiver.bodies[1]["finding"]["status"]) == ("resolved", "resolved")
    assert receiver.bodies[1]["ended_at"] >= receiver.bodies[1]["started_at"] == body["started_at"]


async def test_nothing_is_told_twice_over_restarts(center, watched, receiver, store):
    """Neither that it fires nor that it is over; the store has the history."""
    settings = {"webhooks": [{"url": receiver.url}]}
    await center(**settings)
    await until("the event", lambda: receiver.bodies)
    for _ in range(2):
        await (await center(**settings)).look()
    watched.resolve()
    for _ in range(2):
        await (await center(**settings)).look()
    await until("the end", lambda: len(receiver.bodies) == 2)
    await until("all told", lambda: not Ledger(store).pending())
    await (await center(**settings)).look()
    assert [body["status"] for body in receiver.bodies] == ["firing", "resolved"]
    assert [event.status for event in Ledger(store).events(watched.finding.id)] == ["firing", "resolved"]
    (alert,) = Ledger(store).alerts(run=None, status="all", limit=9)
    assert alert.status == "resolved"


async def test_what_is_on_its_way_at_the_end_is_not_told_again(center, receiver):
    """The receiver has it and has not answered yet when the service is told to end."""
    receiver.answering.clear()
    running = await center(webhooks=[{"url": receiver.url}])
    await until("the event", lambda: receiver.bodies)
    ending = asyncio.create_task(running.stop())
    for _ in range(3):
        # It tells its tasks to end; the one that has sent the event waits for the answer.
        await asyncio.sleep(0)
    receiver.answering.set()
    await ending
    await (await center(webhooks=[{"url": receiver.url}])).look()
    assert len(receiver.bodies) == 1


async def test_an_event_that_was_not_told_is_told_by_the_service_that_comes_back(center, receiver):
    """It was concluded before, and nobody was there to hear it."""
    running = await center(webhooks=[{"url": f"http://127.0.0.1:{reserve_port()}"}])
    await until("a try", lambda: running.statistics.webhook_errors[0])
    await center(webhooks=[{"url": receiver.url}])
    await until("the event", lambda: receiver.bodies)
    assert len(receiver.bodies) == 1


async def test_a_receiver_that_is_busy_is_asked_again(center, receiver, monkeypatch):
    """For answers that say so; the event arrives once."""
    monkeypatch.setattr(webhooks, "RETRY_SECONDS", (0.01, 0.02))
    receiver.answers = [503, 429, 500]
    running = await center(webhooks=[{"url": receiver.url}])
    await until("the event", lambda: receiver.bodies)
    assert running.statistics.webhook_errors[0] == 3
    assert running.statistics.dead_letters[0] == 0


async def test_a_receiver_that_hangs_holds_nobody_else_up(center, watched, receiver):
    """Each has a queue of its own; the detector goes on looking."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        running = await center(webhooks=[{"url": f"http://127.0.0.1:{port}"}, {"url": receiver.url}])
        await until("the event at the other", lambda: receiver.bodies)
        watched.resolve()
        await running.look()
        await until("its end at the other", lambda: len(receiver.bodies) == 2)
        assert running.statistics.webhook_sends[0] == 0


async def test_an_event_is_given_up_when_it_is_refused_or_too_old(center, receiver, caplog, monkeypatch):
    """It is counted and logged with its sentence, and the receiver's address is not."""
    monkeypatch.setattr(webhooks, "RETRY_SECONDS", (0.01, 0.02))
    receiver.answers = [404]
    with caplog.at_level(logging.DEBUG):
        running = await center(
            webhooks=[
                {"url": receiver.url},
                {"url": f"http://127.0.0.1:{reserve_port()}/secret-path", "retry_seconds": 0.1},
            ]
        )
        letters = running.statistics.dead_letters
        await until("both given up", lambda: letters[0] == letters[1] == 1)
    assert "is given up (it answered 404): firing of finding" in caplog.text
    assert "is given up (ConnectError)" in caplog.text
    stallwatch = [each for each in caplog.records if each.name.startswith(("stallwatch", "httpx"))]
    assert all("secret-path" not in record.getMessage() for record in stallwatch)
    assert not receiver.bodies


async def test_slack_gets_the_same_sentence_as_text(center, watched, receiver, tmp_path):
    """With links; the address and the token come from files."""
    (tmp_path / "url").write_text(receiver.url + "\n")
    (tmp_path / "token").write_text("s3cret\n")
    await center(
        webhooks=[
            {"url_file": str(tmp_path / "url"), "token_file": str(tmp_path / "token"), "format": "slack"}
        ]
    )
    await until("the text", lambda: receiver.bodies)
    ((name, text),) = receiver.bodies[0].items()
    assert name == "text"
    assert text.startswith("*CRITICAL TrainingNonFinite* in run `team/run:1`: ")
    assert watched.finding.reason in text
    assert "<https://stallwatch.example.com/runbooks/non_finite|Runbook>" in text
    assert receiver.headers[0]["authorization"] == "Bearer s3cret"


async def test_what_is_silenced_is_told_when_the_silence_is_over(center, watched, receiver, store):
    """And a service that comes back still knows the silence."""
    settings = {"webhooks": [{"url": receiver.url}]}
    watched.is_shown = False
    silence = await (await center(**settings)).silence(None, "non_finite", 3600, "")
    watched.is_shown = True
    running = await center(**settings)
    await running.look()
    assert running.silenced()
    assert not receiver.bodies
    await running.unsilence(silence.id)
    await until("the event", lambda: receiver.bodies)
    await until("that it was told is written down", lambda: not Ledger(store).pending())
