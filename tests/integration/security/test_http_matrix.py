"""Every route of the application with every kind of token: who has none, a wrong one, or one for another run gets nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from stallwatch.detector.alerts.center import AlertCenter
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.settings import AlertSettings
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.http.access import NEEDS, Need
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from stallwatch.detector.http.page.static_files import address
from stallwatch.detector.http.render import finding_json
from stallwatch.detector.store import Store, sqlite_url
from support.analyzer_inputs import a_run
from support.http_server import Answer, Client, serving
from support.read_model import Analyses
from support.shown_runs import full_run
from support.token_kinds import KINDS, MINE, THEIRS, write_tokens

API = "/api/v1"
ME, THEM = quote(MINE, safe=""), quote(THEIRS, safe="")
OPEN = {kind.name for kind in KINDS} | {""}
"""Everybody; the empty kind sends no token."""
READ_MINE = {"read", "read-all", "admin", "admin-all"}
READ_THEIRS = {"read-theirs", "admin-theirs"}
READ = READ_MINE | READ_THEIRS
READ_ALL = {"read-all", "admin-all"}
ADMIN_MINE = {"admin", "admin-all"}
UNKNOWN = {"", "unlisted", "expired"}
"""Of whom nothing is known."""


@dataclass(frozen=True)
class Ask:
    """A request, who gets what it asks for, and with which status; all others are refused."""

    path: str
    allowed: frozenset[str]
    status: int = 200
    body: Any = None
    hidden: frozenset[str] = frozenset()
    """Who is told that there is no such thing, as if there were none."""
    page: bool = False


def ask(
    path: str, allowed: set[str], status: int = 200, body: Any = None, hidden: set[str] | None = None
) -> Ask:
    """One of the API, or of those that are open."""
    return Ask(path, frozenset(allowed), status, body, frozenset(hidden or ()))


def page(path: str, allowed: set[str], hidden: set[str] | None = None) -> Ask:
    """A page."""
    return Ask(path, frozenset(allowed), hidden=frozenset(hidden or ()), page=True)


FORM = b"token=&next=/"
SILENCE = {"run": MINE, "kind": "hang", "seconds": 60}
REQUESTS: dict[tuple[str, str], list[Ask]] = {
    ("GET", "/"): [page("/", READ)],
    ("GET", "/runs"): [page("/runs?name=run", READ)],
    ("GET", "/runs/{rest:path}"): [
        page(f"/runs/{ME}", READ_MINE, READ_THEIRS),
        page(f"/runs/{ME}/loss.svg", READ_MINE, READ_THEIRS),
        page(f"/runs/{ME}/findings/{quote(f'{MINE}#non_finite#1', safe='')}", READ_MINE, READ_THEIRS),
        page(f"/runs/{ME}/ranks/0", READ_MINE, READ_THEIRS),
    ],
    ("GET", "/runbooks"): [page("/runbooks", READ)],
    ("GET", "/runbooks/{name:path}"): [page("/runbooks/hang", READ)],
    ("GET", "/static/{version}/{name:path}"): [ask(address("page.css"), OPEN)],
    ("GET", "/login"): [ask("/login", OPEN)],
    ("POST", "/login"): [ask("/login", OPEN, 401, FORM)],
    ("POST", "/logout"): [ask("/logout", OPEN, 303, b"")],
    ("GET", "/metrics"): [ask("/metrics", READ_ALL)],
    ("GET", "/livez"): [ask("/livez", OPEN)],
    ("GET", "/readyz"): [ask("/readyz", OPEN)],
    ("GET", f"{API}/openapi.json"): [ask(f"{API}/openapi.json", OPEN)],
    ("GET", f"{API}/runs"): [ask(f"{API}/runs", READ)],
    ("GET", f"{API}/runs/{{rest:path}}"): [
        ask(f"{API}/runs/{ME}{rest}", READ_MINE, hidden=READ_THEIRS)
        for rest in (
            "",
            "/findings?status=all",
            "/ranks",
            "/events",
            "/states",
            "/gaps",
            "/series",
            "/series/loss",
        )
    ]
    + [ask(f"{API}/runs/{MINE}", READ_MINE, hidden=READ_THEIRS)],
    ("GET", f"{API}/alerts"): [ask(f"{API}/alerts", READ), ask(f"{API}/alerts?run={ME}", READ)],
    ("GET", f"{API}/silences"): [ask(f"{API}/silences?status=all", READ)],
    ("POST", f"{API}/silences"): [
        ask(f"{API}/silences", ADMIN_MINE, 201, SILENCE),
        ask(f"{API}/silences", ADMIN_MINE, 201, {**SILENCE, "run": "mine/*"}),
        ask(f"{API}/silences", {"admin-all"}, 201, {**SILENCE, "run": "m*"}),
        ask(f"{API}/silences", {"admin-all"}, 201, {"kind": "hang", "seconds": 60}),
    ],
    ("DELETE", f"{API}/silences/{{id}}"): [
        ask(f"{API}/silences/ID", ADMIN_MINE, 204, hidden={"admin-theirs"})
    ],
}


class World:
    """An application over two runs, with an alert and a silence each, and a client."""

    def __init__(self, client: Client, app: Starlette, center: AlertCenter, made: dict[str, str]) -> None:
        self.client = client
        self.app = app
        self.center = center
        self.tokens = made
        self.asked = 0

    def ask(self, method: str, request: Ask, kind: str, headers: dict[str, str] | None = None) -> Answer:
        """Send it with the token of a kind."""
        sent = dict(headers or {})
        if kind:
            sent["authorization"] = f"Bearer {self.tokens[kind]}"
        body = request.body
        if isinstance(body, bytes):
            sent["content-type"] = "application/x-www-form-urlencoded"
        elif body is not None:
            sent["content-type"], body = "application/json", json.dumps(body).encode()
        path = request.path
        if path.endswith("/ID"):
            path = path.replace("ID", asyncio.run(self.center.silence(MINE, None, 600.0, "secret")).id)
        # Each from an address of its own, which has not failed too often.
        self.asked += 1
        self.client.source = f"127.0.{self.asked // 250 + 1}.{self.asked % 250 + 1}"
        return self.client.request(method, path, sent, body)

    def silences(self) -> set[str]:
        """The ids of those that hold."""
        return set(self.center._book.silences)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    """It, served for real, on a real store."""
    folder = tmp_path_factory.mktemp("matrix")
    store = Store(sqlite_url(folder))
    store.prepare()
    model = Analyses({run: replay_inputs(a_run(run, nan_at_batch=3), "test") for run in (MINE, THEIRS)})
    shown = [full_run(run, ("hang",)) for run in (MINE, THEIRS)]
    center = AlertCenter(
        store,
        AlertSettings.model_validate({}),
        Links(),
        finding_json,
        lambda: [(each.view, each.view.findings) for each in shown],
    )
    asyncio.run(center.look())
    for run in (MINE, THEIRS):
        asyncio.run(center.silence(run, None, 600.0, f"comment about {run}"))
    made = write_tokens(folder / "tokens.toml")

    async def problems() -> list[str]:
        return []

    app = create_app(
        model, lambda: Exposed(shown, ()), problems, alerts=center, gate=Gate(folder / "tokens.toml")
    )
    with serving(app) as client:
        yield World(client, app, center, made)
    store.close()


def routes(app: Starlette) -> set[tuple[str, str]]:
    """Every method of every route there is."""
    assert all(isinstance(route, Route) for route in app.routes)
    return {(method, route.path) for route in app.routes for method in route.methods if method != "HEAD"}


def test_no_route_is_forgotten(world):
    """Neither in the service's table nor in this one: a new route fails here until somebody says who may use it."""
    assert routes(world.app) == set(REQUESTS)
    assert routes(world.app) <= set(NEEDS)


CASES = [
    pytest.param(
        route,
        request,
        id=f"{route[0]} {request.path}{'' if request.body is None else ' ' + str(request.body)[:40]}",
    )
    for route, requests in REQUESTS.items()
    for request in requests
]


@pytest.mark.parametrize(("route", "request_"), CASES)
def test_who_may_gets_it_and_who_may_not_gets_nothing(world, route, request_):
    """None, wrong, expired, of another run, for reading only, for writing only, for administering, all and one run's."""
    method = route[0]
    for kind in ("", *(each.name for each in KINDS)):
        before = world.silences()
        answer = world.ask(method, request_, kind)
        if kind in request_.allowed:
            assert answer.status_code == request_.status, (kind, answer.text)
            if (
                route[1] in {"/", "/runs", f"{API}/runs", f"{API}/alerts", f"{API}/silences", "/metrics"}
                and method == "GET"
            ):
                assert ("theirs" in answer.text) == (
                    kind in READ_ALL | READ_THEIRS and ME not in request_.path
                ), kind
                assert ("mine" in answer.text) == (kind in READ_MINE), kind
            continue
        expected = 404 if kind in request_.hidden else 401 if kind in UNKNOWN else 403
        if request_.page and kind == "":
            expected = 303
        assert answer.status_code == expected, (kind, answer.text)
        check_that_nothing_is_in(answer, world, kind)
        # Of what DELETE was to end, the fixture's own silence is left; of what POST was to begin, nothing is there.
        assert len(world.silences() - before) == (1 if request_.path.endswith("/ID") else 0)
        if expected == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


def check_that_nothing_is_in(answer: Answer, world: World, kind: str) -> None:
    """Nothing of a run but what the request said itself, and nothing of a token."""
    text = answer.text.replace(MINE, "").replace(ME, "") + str(answer.headers).replace(
        quote(f"/runs/{ME}", safe=""), ""
    )
    assert "non_finite" not in text.replace(quote("#non_finite#1", safe=""), "") or kind == ""
    assert "comment about" not in text
    assert "loss" not in text.replace("loss.svg", "").replace("series/loss", "") or answer.status_code == 303
    assert not any(secret in text for secret in world.tokens.values())
    if answer.headers.get("content-type") == "application/json":
        assert set(answer.json()["error"]) == {"status", "code", "message", "field"}


@pytest.mark.parametrize("kind", sorted(READ_THEIRS))
def test_a_run_of_others_looks_like_one_that_does_not_exist(world, kind):
    """Word for word, whatever is asked of it."""
    nowhere = "mine/there-is:none"
    for rest in ("", "/findings", "/ranks", "/events", "/states", "/series", "/series/loss"):
        there, missing = (
            world.ask("GET", ask(f"{API}/runs/{quote(run, safe='')}{rest}", READ), kind)
            for run in (MINE, nowhere)
        )
        assert there.status_code == missing.status_code == 404
        assert there.text.replace(MINE, "RUN") == missing.text.replace(nowhere, "RUN")


def test_a_cookie_reads_and_changes_nothing(world):
    """What a browser sends by itself is good for reading only, so another site has nothing to gain from it."""
    cookie = {"cookie": f"stallwatch={world.tokens['admin-all']}"}
    before = world.silences()
    assert world.ask("GET", ask(f"{API}/silences", set()), "", cookie).status_code == 200
    assert world.ask("POST", ask(f"{API}/silences", set(), body=SILENCE), "", cookie).status_code == 401
    for identity in before:
        assert world.ask("DELETE", ask(f"{API}/silences/{identity}", set()), "", cookie).status_code == 401
    assert world.silences() == before
    writes = {route for route, need in NEEDS.items() if need is Need.ADMINISTER}
    others = {route for route in NEEDS if route[0] != "GET"} - writes
    assert others == {("POST", "/login"), ("POST", "/logout")}


def test_what_does_not_exist_is_not_told_to_strangers(world):
    """An address without a route, and a method that a route has not."""
    for method, path in (
        ("GET", "/api/v2"),
        ("GET", "/.git/config"),
        ("PUT", f"{API}/runs"),
        ("TRACE", "/metrics"),
    ):
        assert world.ask(method, ask(path, set()), "").status_code == 401
        assert world.ask(method, ask(path, set()), "write").status_code == 403
        assert world.ask(method, ask(path, set()), "read-all").status_code in {404, 405}


def test_head_is_as_get(world):
    """It would say how long the answer is."""
    for path in (f"{API}/runs", "/metrics", f"/runs/{ME}"):
        assert world.ask("HEAD", ask(path, set()), "write").status_code == 403
        assert world.ask("HEAD", ask(path, set()), "read-all").status_code == 200


def test_what_one_reader_sees_is_kept_for_no_other(world):
    """Caches in between keep nothing, or ask again, and know that the token makes the difference."""
    for path in (f"{API}/runs", "/", f"/runs/{ME}", f"/runs/{ME}/loss.svg", "/metrics"):
        headers = world.ask("GET", ask(path, set()), "read-all").headers
        assert headers["cache-control"].startswith("private")
        assert {"authorization", "cookie"} <= {each.strip().lower() for each in headers["vary"].split(",")}


def test_the_table_without_a_route_stops_the_service():
    """A route that nobody has thought about is not served to anybody."""

    async def problems() -> list[str]:
        return []

    from stallwatch.detector.auth.throttle import Throttle
    from stallwatch.detector.http.access import AccessControl

    app = create_app(Analyses({}), lambda: Exposed([], ()), problems)
    route = Route("/new", lambda _request: None)
    with pytest.raises(AssertionError, match="GET /new has no entry"):
        AccessControl(app, routes=[route], gate=Gate(), throttle=Throttle(), secure=False)
