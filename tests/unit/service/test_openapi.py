"""The OpenAPI document: valid, complete, and true of answers in which everything is set."""

from __future__ import annotations

import asyncio

import pytest
from openapi_spec_validator import validate
from starlette.routing import Route

from stallwatch.detector.alerts.center import AlertCenter
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.settings import AlertSettings
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.http import query
from stallwatch.detector.http.api import RUNS_PATH
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from stallwatch.detector.http.openapi import OPENAPI_PATH, document
from stallwatch.detector.http.render import finding_json, plain
from stallwatch.detector.store import Store, sqlite_url
from support.analyzer_inputs import a_run
from support.http_server import serving
from support.openapi import problems
from support.read_model import Analyses

RUN = "team/run:1"
BELOW = f"{RUNS_PATH}/{{rest:path}}"


async def no_problems():
    """The service is ready."""
    return []


@pytest.fixture
def app(tmp_path):
    """The application over a replayed run and a real store."""
    store = Store(sqlite_url(tmp_path))
    store.prepare()
    analysis = snapshot.decode(snapshot.encode(replay_inputs(a_run(RUN, nan_at_batch=3), "test")))
    model = Analyses({RUN: analysis})
    view = analysis.view()

    def shown():
        return [(view, view.findings)]

    settings = AlertSettings.model_validate({})
    center = AlertCenter(store, settings, Links(), lambda finding: plain(finding_json(finding)), shown)
    asyncio.run(center.look())
    yield create_app(model, lambda: Exposed([], []), no_problems, alerts=center)
    store.close()


def test_the_document_is_valid():
    """As OpenAPI 3.1 says."""
    validate(document())


def test_every_route_of_the_api_is_described_and_no_other(app):
    """Those below a run are one route, and told apart by what follows its name."""
    described = {
        (path, method.upper()) for path, methods in document()["paths"].items() for method in methods
    }
    expected = {(f"{RUNS_PATH}/{{run}}", "GET"), (f"{RUNS_PATH}/{{run}}/series/{{name}}", "GET")}
    expected |= {(f"{RUNS_PATH}/{{run}}/{part}", "GET") for part in query._PARTS}
    for route in app.routes:
        if isinstance(route, Route) and route.path.startswith("/api/") and route.path != BELOW:
            expected |= {(route.path, method) for method in (route.methods or ()) if method != "HEAD"}
    assert described == expected


def test_answers_are_as_described(app):
    """Field by field, nothing missing and nothing more, errors as well."""
    with serving(app) as client:
        begun = client.send("/api/v1/silences", {"run": "x*", "seconds": 60})
        assert problems(document(), "/api/v1/silences", "post", 201, begun.json()) == []
        given = {"run": "team%2Frun:1", "name": "loss"}
        for path, methods in document()["paths"].items():
            if "get" not in methods:
                continue
            answer = client.get(path.format(**given))
            assert answer.status_code == 200, path
            assert problems(document(), path, "get", 200, answer.json()) == [], path
            refused = client.get(path.format(**given) + "?nonsense=1")
            assert problems(document(), path, "get", 400, refused.json()) == [], path
        ended = client.delete(f"/api/v1/silences/{begun.json()['id']}")
        assert (ended.status_code, ended.content) == (204, b"")
        assert client.get(OPENAPI_PATH).json() == document()


def test_a_method_that_there_is_not_is_told_of_those_that_there_are(app):
    """All of them."""
    with serving(app) as client:
        answer = client.request("PUT", "/api/v1/silences")
    assert answer.status_code == 405
    assert {each.strip() for each in answer.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}
