"""axe-core, which knows the rules of WCAG, finds nothing to say about any page, light or dark."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from support import axe as axe_core
from support.http_server import serving
from support.rank import Rank, hello, steps
from support.read_model import Analyses
from support.token_kinds import write_tokens
from support.waiting import wait_until


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core."""
    return axe_core.require(tmp_path_factory.mktemp("axe"))


@pytest.fixture(scope="module")
def pages(service, browser) -> list[str]:
    """One of every sort of page."""
    rank = Rank(service.grpc_address, hello("axe"))
    block = steps(0, 60)
    block.loss_sum[50] = float("nan")
    rank.send(block)
    found = wait_until(
        "the finding", lambda: (service.get("/api/v1/runs/axe") or {"findings": []})["findings"]
    )
    rank.finish()
    return [
        "/",
        "/runs/axe",
        f"/runs/axe/findings/{quote(found[0]['id'], safe='')}",
        "/runs/axe/ranks/0",
        "/runbooks",
        "/runbooks/lr_too_low",
        "/runs/none",
    ]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(service, browser, axe, pages, scheme):
    """Names, roles, headings, landmarks, tables, focus and contrast."""
    said = {}
    with browser.tab(service.url, color_scheme=scheme) as tab:
        for path in pages:
            tab.visit(service.url + path)
            if tab.page.query_selector("#charts"):
                tab.charted()
            said[path] = axe_core.violations(tab, axe)
    assert said == {path: [] for path in pages}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_form_for_a_token(tmp_path, browser, axe, scheme):
    """Nor when it says what is wrong with the one that was given."""
    write_tokens(path := tmp_path / "tokens.toml")

    async def problems() -> list[str]:
        return []

    app = create_app(Analyses({}), lambda: Exposed([], ()), problems, gate=Gate(path))
    with serving(app) as client:
        url = f"http://127.0.0.1:{client.port}"
        with browser.tab(url, color_scheme=scheme) as tab:
            tab.visit(url + "/login")
            assert axe_core.violations(tab, axe) == []
            tab.page.fill("#token", "mistyped")
            tab.page.click("main button")
            tab.page.wait_for_selector("#problem")
            assert axe_core.violations(tab, axe) == []
