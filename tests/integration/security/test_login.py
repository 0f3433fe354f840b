"""The page behind the tokens: the form, the cookie, and where it leads; how often somebody may fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest

from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.auth.throttle import BURST
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from stallwatch.detector.http.login import next_page
from support.analyzer_inputs import a_run
from support.http_server import Answer, Client, serving
from support.read_model import Analyses
from support.token_kinds import MINE, write_tokens

FORM = {"content-type": "application/x-www-form-urlencoded"}


@contextmanager
def detector(
    folder: Path, *, open_read: bool = False, secure: bool = False
) -> Iterator[tuple[Client, dict[str, str], Gate]]:
    """An application with a run, its tokens, and what holds them."""
    made = write_tokens(folder / "tokens.toml")
    gate = Gate(folder / "tokens.toml", open_read=open_read)
    model = Analyses({MINE: replay_inputs(a_run(MINE), "test")})

    async def problems() -> list[str]:
        return []

    app = create_app(model, lambda: Exposed([], ()), problems, gate=gate, secure=secure)
    with serving(app) as client:
        yield client, made, gate


def sign_in(client: Client, token: str, wanted: str = "/", **headers: str) -> Answer:
    """Send the form."""
    fields = urlencode({"token": token, "next": wanted}).encode()
    return client.request(
        "POST", "/login", {**FORM, **{k.replace("_", "-"): v for k, v in headers.items()}}, fields
    )


def test_a_reader_is_led_to_the_form_and_back(tmp_path):
    """With the address they asked for; the cookie cannot be read by scripts nor sent by other sites, and signing out ends it."""
    with detector(tmp_path) as (client, made, gate):
        asked = f"/runs/{MINE.replace('/', '%2F').replace(':', '%3A')}?a=1&b=2"
        led = client.get(asked)
        assert (led.status_code, led.headers["cache-control"]) == (303, "no-store")
        form = client.get(led.headers["location"])
        assert form.status_code == 200
        wanted = asked.replace("&", "&amp;")
        assert f'name="next" value="{wanted}"' in form.text
        assert 'http-equiv="refresh"' not in form.text
        done = sign_in(client, made["read"], asked)
        assert (done.status_code, done.headers["location"]) == (303, asked)
        cookie = SimpleCookie(done.headers["set-cookie"])["stallwatch"]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (
            True,
            "strict",
            "/",
            "",
        )
        assert (cookie["max-age"], cookie["expires"]) == ("", "")
        sent = {"cookie": f"other=1; stallwatch={cookie.value}"}
        shown = client.get(asked, sent)
        assert shown.status_code == 200
        assert MINE in shown.text
        assert 'action="/logout"' in shown.text
        assert client.get("/api/v1/runs", sent).status_code == 200
        out = client.request("POST", "/logout", sent)
        assert out.headers["location"] == "/login"
        assert SimpleCookie(out.headers["set-cookie"])["stallwatch"].value == ""
        (tmp_path / "tokens.toml").write_text("")
        assert gate.refresh()
        assert client.get(asked, sent).status_code == 303


def test_over_tls_the_cookie_goes_nowhere_else(tmp_path):
    """It is sent by https only, and its name lets browsers take it from this host only."""
    with detector(tmp_path, secure=True) as (client, made, _gate):
        done = sign_in(client, made["read"])
        cookie = SimpleCookie(done.headers["set-cookie"])["__Host-stallwatch"]
        assert cookie["secure"] is True
        assert client.get("/", {"cookie": f"__Host-stallwatch={cookie.value}"}).status_code == 200
        assert client.get("/", {"cookie": f"stallwatch={cookie.value}"}).status_code == 303


def test_who_may_not_read_gets_the_form_again_and_no_cookie(tmp_path):
    """With the reason, and without what they entered."""
    cases = (
        ("unlisted", 401, "The token is not known here"),
        ("expired", 401, "Token expired has expired"),
        ("write", 403, "Token write has no scope read."),
        ("", 401, "Enter a token."),
    )
    with detector(tmp_path) as (client, made, _gate):
        for kind, status, says in cases:
            answer = sign_in(client, made.get(kind, ""), "/runbooks")
            assert answer.status_code == status
            assert says in answer.text
            assert 'name="next" value="/runbooks"' in answer.text
            assert "set-cookie" not in answer.headers
            assert not kind or made[kind] not in answer.text


@pytest.mark.parametrize(
    "given",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "/%0d%0aset-cookie: a=b"[:1] + "\r\nset-cookie: a=b",
        "/\t/evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
        "/login?next=/login",
        "/logout",
        "/\u2028",
        "///evil.example",
        " //evil.example",
    ],
)
def test_the_form_leads_to_no_other_site(given):
    """Whatever `next` is made of, the overview is where it leads."""
    assert next_page(given) == "/"


def test_the_form_asks_where_it_leads(tmp_path):
    """When it is shown, and when it is sent."""
    with detector(tmp_path) as (client, made, _gate):
        given = "//evil.example/"
        assert sign_in(client, made["read"], given).headers["location"] == "/"
        assert 'name="next" value="/"' in client.get(f"/login?{urlencode({'next': given})}").text


def test_other_sites_cannot_sign_anybody_in(tmp_path):
    """A browser says where a form came from."""
    with detector(tmp_path) as (client, made, _gate):
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 303), ("none", 303)):
            assert sign_in(client, made["read"], sec_fetch_site=site).status_code == status
        assert client.request("POST", "/login", {"content-type": "text/plain"}, b"token=x").status_code == 415
        assert client.request("POST", "/login", FORM, b"a" * 5000).status_code == 413
        assert client.request("POST", "/login", FORM, b"\xff").status_code == 400
        assert client.request("POST", "/login", FORM, b"&".join([b"a=b"] * 9)).status_code == 400


def test_a_link_in_an_alert_finds_who_is_signed_in(tmp_path):
    """A strict cookie does not come with a click on another site; our own page asks again, and then it does."""
    with detector(tmp_path) as (client, made, _gate):
        click = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        first = client.get("/runbooks", click)
        assert first.status_code == 200
        assert '<meta http-equiv="refresh" content="0">' in first.text
        assert len(first.content) < 200
        again = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
        assert client.get("/runbooks", again).status_code == 303
        assert client.get("/runbooks", {**again, "cookie": f"stallwatch={made['read']}"}).status_code == 200


def test_who_fails_too_often_is_told_to_wait_and_keeps_nobody_out(tmp_path):
    """Over form, header and cookie together; whoever has a valid token gets in from the same address."""
    with detector(tmp_path) as (client, made, _gate):
        wrong = {"authorization": f"Bearer {made['unlisted']}"}
        statuses = []
        for number in range(BURST + 10):
            match number % 3:
                case 0:
                    answer = sign_in(client, made["unlisted"])
                case 1:
                    answer = client.get("/api/v1/runs", wrong)
                case _:
                    answer = client.get("/metrics", {"cookie": f"stallwatch={made['unlisted']}"})
            statuses.append(answer.status_code)
        assert set(statuses[:BURST]) == {401}
        assert statuses[-1] == 429
        assert client.get("/api/v1/runs", wrong).headers["retry-after"]
        assert client.get("/api/v1/runs", {"authorization": f"Bearer {made['read']}"}).status_code == 200
        assert sign_in(client, made["read"]).status_code == 303
        assert client.get("/api/v1/runs").status_code == 401


def test_reading_may_be_open_and_writing_is_not(tmp_path):
    """With --open-read nobody is asked for a token to read, and the form is not needed."""
    with detector(tmp_path, open_read=True) as (client, made, _gate):
        for path in ("/", "/api/v1/runs", "/metrics", "/runbooks"):
            assert client.get(path).status_code == 200
            assert client.get(path, {"authorization": f"Bearer {made['unlisted']}"}).status_code == 200
        assert client.get("/login?next=/runbooks").headers["location"] == "/runbooks"
        assert MINE in client.get("/").text


def test_without_tokens_everything_is_as_before(tmp_path):
    """No form, no redirect, nobody is asked."""

    async def problems() -> list[str]:
        return []

    model = Analyses({MINE: replay_inputs(a_run(MINE), "test")})
    with serving(create_app(model, lambda: Exposed([], ()), problems)) as client:
        assert client.get("/").status_code == 200
        assert client.get("/login").headers["location"] == "/"
        assert "vary" not in {
            name for name, value in client.get("/livez").headers.items() if "cookie" in value
        }


def test_a_problem_with_the_files_shows_in_readyz_and_says_nothing_else(tmp_path):
    """The detector stays ready: a mistake in a file must not take down all detectors that read it."""

    async def problems() -> list[str]:
        return []

    path = tmp_path / "tokens.toml"
    write_tokens(path)
    notes = ["warning: one"]
    app = create_app(Analyses({}), lambda: Exposed([], ()), problems, gate=Gate(path), notes=lambda: notes)
    with serving(app) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.text) == (200, "ok\nwarning: one\n")
        notes.clear()
        assert client.get("/readyz").text == "ok\n"
