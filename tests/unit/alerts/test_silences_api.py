"""Silences and alerts over HTTP, on a real store: what is wrong is named, what is right is kept."""

from __future__ import annotations

import asyncio
import json

import pytest

from stallwatch.detector.alerts.center import AlertCenter
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.settings import AlertSettings
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from stallwatch.detector.http.render import finding_json
from stallwatch.detector.store import Store, sqlite_url
from support.http_server import serving
from support.shown_runs import full_run

RUN = "team/run:1"
SILENCES = "/api/v1/silences"


@pytest.fixture
def center(tmp_path):
    """Alerts of one run with a hang and a straggler."""
    store = Store(sqlite_url(tmp_path))
    store.prepare()
    view = full_run(RUN, ("hang", "straggler")).view

    def shown():
        return [(view, view.findings)]

    made = AlertCenter(store, AlertSettings.model_validate({}), Links(), finding_json, shown)
    asyncio.run(made.look())
    yield made
    store.close()


@pytest.fixture
def client(center):
    """A client of its API."""

    async def problems():
        return []

    with serving(create_app(None, lambda: Exposed([], ()), problems, alerts=center)) as one:
        yield one


def test_a_silence_is_begun_listed_and_ended(client, center):
    """It holds for its time, and what is over is listed only when asked for."""
    begun = client.send(SILENCES, {"run": "team/*", "kind": "hang", "seconds": 60, "comment": "known"})
    assert begun.status_code == 201
    silence = begun.json()
    assert list(silence) == ["id", "run", "kind", "comment", "created_at", "expires_at", "status"]
    assert (silence["run"], silence["kind"], silence["status"]) == ("team/*", "hang", "active")
    assert silence["expires_at"] - silence["created_at"] == pytest.approx(60)
    assert client.get(SILENCES).json() == {"silences": [silence]}
    assert center.silenced() == {f"{RUN}#hang#1"}
    assert client.delete(f"{SILENCES}/{silence['id']}").status_code == 204
    assert client.get(SILENCES).json() == {"silences": []}
    (over,) = client.get(f"{SILENCES}?status=all").json()["silences"]
    assert (over["id"], over["status"]) == (silence["id"], "expired")
    assert center.silenced() == frozenset()


def test_alerts_are_listed_with_what_keeps_them_quiet(client):
    """The history, by run and by status."""
    silence = client.send(SILENCES, {"kind": "hang", "seconds": 60}).json()
    alerts = {each["kind"]: each for each in client.get("/api/v1/alerts?status=firing").json()["alerts"]}
    assert set(alerts) == {"hang", "straggler"}
    assert (alerts["hang"]["alert"], alerts["hang"]["silence"]) == ("TrainingHang", silence["id"])
    assert alerts["straggler"]["silence"] is None
    assert alerts["hang"]["links"]["runbook"] == "http://localhost:9847/runbooks/hang"
    assert client.get("/api/v1/alerts?run=other").json() == {"alerts": []}
    assert len(client.get("/api/v1/alerts?limit=1").json()["alerts"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ({"seconds": 60}, 422, "run", "say which run"),
        ({"run": "", "seconds": 60}, 422, "run", "1 to 256 characters"),
        ({"run": 7, "seconds": 60}, 422, "run", "a name or a pattern"),
        ({"kind": "hung", "seconds": 60}, 422, "kind", "kind is 'hung': it must be one of plateau"),
        ({"kind": ["hang"], "seconds": 60}, 422, "kind", "must be one of"),
        ({"run": "a"}, 422, "seconds", "seconds is None: it must be a number from 1"),
        ({"run": "a", "seconds": 0}, 422, "seconds", "from 1 to 31622400"),
        ({"run": "a", "seconds": 0.5}, 422, "seconds", "from 1 to 31622400"),
        ({"run": "a", "seconds": True}, 422, "seconds", "a number from 1"),
        ({"run": "a", "seconds": 1e12}, 422, "seconds", "to 31622400"),
        ({"run": "a", "seconds": 60, "comment": "x" * 1001}, 422, "comment", "at most 1000 characters"),
        (
            {"run": "a", "seconds": 60, "until": 3},
            422,
            "until",
            "there is no field 'until': the fields are run",
        ),
        ([], 400, None, "must be an object"),
        ({"run": "a", "seconds": 60, "comment": "x" * 20_000}, 413, None, "no longer than"),
    ],
)
def test_an_error_names_the_field_and_the_fix(client, body, status, field, says):
    """As everywhere in the API."""
    answer = client.send(SILENCES, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["status"], error["field"]) == (status, field)
    assert says in error["message"]


def test_what_is_no_json_and_what_is_not_there_is_said(client):
    """A form from another site's page does not begin a silence."""
    form = client.request("POST", SILENCES, {"content-type": "text/plain"}, json.dumps({"run": "a"}).encode())
    assert (form.status_code, form.json()["error"]["code"]) == (415, "not_json")
    broken = client.request("POST", SILENCES, {"content-type": "application/json"}, b"{")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "not_json")
    gone = client.delete(f"{SILENCES}/none")
    assert (gone.status_code, gone.json()["error"]["field"]) == (404, "id")
    assert client.get(f"{SILENCES}?state=all").json()["error"]["field"] == "state"
    assert client.get(f"{SILENCES}?status=firing").json()["error"]["field"] == "status"
    assert client.get("/api/v1/alerts?limit=0").json()["error"]["field"] == "limit"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000,
        b'{"run": "a", "seconds": 60, "comment": "\\ud800"}',
        b'{"run": "a", "seconds": 60, "\\ud800": 1}',
        b'{"run": "a", "seconds": 1' + b"0" * 400 + b"}",
        b'{"run": "a", "seconds": 1' + b"0" * 5000 + b"}",
    ],
)
def test_bodies_that_break_readers_and_stores_are_refused(client, body):
    """Deep nesting, half a surrogate pair, numbers that are no float; found by fuzzing."""
    answer = client.request("POST", SILENCES, {"content-type": "application/json"}, body)
    assert answer.status_code in {400, 422}
    assert answer.json()["error"]["message"]
