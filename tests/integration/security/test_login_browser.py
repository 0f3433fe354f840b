"""The form in a real browser: it keeps to the page's policy, the cookie does what it should, and a revoked token ends the page."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from support import chromium as chromiums
from support.analyzer_inputs import a_run
from support.http_server import serving
from support.read_model import Analyses
from support.token_kinds import MINE, write_tokens


@pytest.mark.timeout(120)
def test_a_reader_signs_in_looks_around_follows_an_alert_and_is_out_when_the_token_is_revoked(tmp_path):
    """Without a complaint of the browser's on the way."""
    chromiums.require()
    path = tmp_path / "tokens.toml"
    made = write_tokens(path)
    gate = Gate(path)

    async def problems() -> list[str]:
        return []

    model = Analyses({MINE: replay_inputs(a_run(MINE), "test")})
    app = create_app(model, lambda: Exposed([], ()), problems, gate=gate)
    run = f"/runs/{quote(MINE, safe='')}"

    async def alert(_request) -> HTMLResponse:
        return HTMLResponse(f'<title>chat</title><a id="link" href="{ours}{run}">plateau</a>')

    with (
        serving(app) as client,
        serving(Starlette(routes=[Route("/", alert)])) as elsewhere,
        chromiums.chromium() as browser,
    ):
        ours = f"http://127.0.0.1:{client.port}"
        # Another name is another site.
        chat = f"http://localhost:{elsewhere.port}"
        with browser.tab(ours) as tab:
            tab.visit(ours + run)
            assert tab.page.url == f"{ours}/login?next={quote(run, safe='')}"
            tab.page.fill("#token", made["unlisted"])
            tab.page.click("main button")
            tab.page.wait_for_selector("#problem")
            assert tab.complaints == [
                f"401: {ours}/login",
                *[each for each in tab.complaints if "401" in each][1:],
            ]
            tab.complaints.clear()
            tab.page.fill("#token", made["read"])
            tab.page.click("main button")
            tab.page.wait_for_url(ours + run)
            tab.charted()
            assert tab.page.inner_text("h1") == MINE
            (cookie,) = tab.page.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
            assert tab.page.evaluate("document.cookie") == ""
            assert tab.complaints == []
            tab.page.goto(chat)
            tab.page.click("#link")
            tab.page.wait_for_url(ours + run)
            tab.page.wait_for_selector("h1")
            assert tab.page.inner_text("h1") == MINE
            path.write_text("")
            assert gate.refresh()
            tab.page.wait_for_url(f"{ours}/login**")
            assert tab.page.is_visible("#token")
