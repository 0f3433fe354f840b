"""The page in a real Chromium, beside a real job of gloo that stalls while it is looked at."""

from __future__ import annotations

import threading
import time
from urllib.parse import quote

import pytest

from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Rank, hello, steps
from support.waiting import wait_until

RUN = "team/stalls:1"
API = f"/api/v1/runs/{quote(RUN, safe='')}"
PAGE = f"/runs/{quote(RUN, safe='')}"
SECONDS_BEHIND_THE_API = 2.0


def hang(service):
    """The finding, once the API has it."""
    findings = (service.get(f"{API}/findings?status=firing") or {"findings": []})["findings"]
    return next((each for each in findings if each["kind"] == "hang"), None)


@pytest.fixture(scope="module")
def stalled(service, job, browser):
    """The job, watched in a tab while it stalls: the finding, how much later the page had it, and what the page said."""
    wait_until("a hundred steps", lambda: (service.get(API) or {"step": 0})["step"] > 100, 90)
    seen: dict[str, float] = {}

    def ask() -> None:
        wait_until("the finding in the API", lambda: hang(service), 60, interval=0.02)
        seen["api"] = time.monotonic()

    with browser.tab(service.url) as tab:
        tab.visit(service.url + PAGE)
        tab.charted()
        before = tab.page.inner_text("#findings")
        asking = threading.Thread(target=ask)
        asking.start()
        job.stall()
        tab.page.wait_for_selector("#findings [data-finding*='#hang#']", timeout=60_000)
        seen["page"] = time.monotonic()
        asking.join()
        tab.page.wait_for_function("() => document.querySelector('#announcer').textContent !== ''")
        said = tab.page.inner_text("#announcer")
        state = tab.page.inner_text("#state")
        complaints = list(tab.complaints)
    return {
        "finding": hang(service),
        "behind": seen["page"] - seen["api"],
        "before": before,
        "said": said,
        "state": state,
        "complaints": complaints,
    }


@pytest.mark.timeout(240)
def test_a_finding_appears_on_an_open_page_soon_after_the_api_has_it(stalled):
    """Without a reload; screen readers are told, and the console stays silent."""
    assert "hang" not in stalled["before"]
    assert stalled["behind"] < SECONDS_BEHIND_THE_API
    assert stalled["finding"]["reason"].split(" for ")[0] in stalled["said"]
    assert stalled["state"].startswith("hung")
    assert stalled["complaints"] == []


@pytest.mark.timeout(120)
def test_a_reader_clicks_from_the_overview_to_the_rank(service, stalled, browser):
    """Overview, run, finding, rank: each by a link of the one before, without a complaint."""
    with browser.tab(service.url) as tab:
        page = tab.page
        tab.visit(service.url)
        assert "critical" in page.inner_text("#totals")
        page.click(f"table.runs >> text='{RUN}'")
        page.wait_for_url(f"**{PAGE}")
        tab.charted()
        page.wait_for_function("() => document.querySelector('#heat').dataset.loaded === '2'")
        assert page.locator("#charts canvas").count() >= 3
        assert "mixup on <img src=x onerror=alert(1)>" in page.inner_text("#history")
        page.click("#findings >> text=hang")
        page.wait_for_selector("h1:has-text('Hang')")
        tab.charted()
        assert stalled["finding"]["reason"].split(" for ")[0] in page.inner_text(".lead")
        assert page.locator("#finding table").count() >= 1
        page.click("dt:has-text('Rank') + dd a")
        page.wait_for_selector("h1:has-text('Rank 1')")
        assert "hang" in page.inner_text(".cards")
        assert tab.complaints == []


@pytest.mark.timeout(120)
def test_the_essential_is_there_without_javascript(service, stalled, browser):
    """State, findings, numbers and the curve as a picture, from the server alone."""
    with browser.tab(service.url, java_script_enabled=False) as tab:
        tab.visit(service.url + PAGE)
        text = tab.page.inner_text("main")
        for part in ("hung", "hang", "critical", "Last step", "Sync wait", "Loss as a table"):
            assert part in text, part
        assert tab.page.locator("img.still").is_visible()
        assert tab.complaints == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(service, stalled, browser, scheme):
    """At 390 px nothing is cut: pages scroll down and never sideways."""
    identity = quote(stalled["finding"]["id"], safe="")
    with browser.tab(service.url, viewport={"width": 390, "height": 844}, color_scheme=scheme) as tab:
        for path in (
            "/",
            PAGE,
            f"{PAGE}/findings/{identity}",
            f"{PAGE}/ranks/1",
            "/runbooks",
            "/runbooks/lr_too_low",
        ):
            tab.visit(service.url + path)
            if tab.page.query_selector("#charts"):
                tab.charted()
            assert tab.page.evaluate("document.documentElement.scrollWidth") == 390, path
            for box in (each.bounding_box() for each in tab.page.query_selector_all("canvas")):
                assert box is None or box["x"] + box["width"] <= 390, path
        assert tab.complaints == []


@pytest.mark.timeout(120)
def test_a_drag_across_a_chart_asks_for_these_steps_anew(service, stalled, browser):
    """All charts show them, as fine as they are kept; the address remembers, and a button goes back."""
    with browser.tab(service.url) as tab:
        page = tab.page
        tab.visit(service.url + PAGE)
        tab.charted()
        drawn = int(page.get_attribute("#charts", "data-loaded"))
        box = page.locator("#chart-loss .u-over").bounding_box()
        with page.expect_request(lambda sent: "/series/loss?" in sent.url and "from_step=" in sent.url):
            page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 40)
            page.mouse.down()
            page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 60, steps=4)
            page.mouse.up()
        tab.charted(drawn + 1)
        first, last = (int(page.input_value(f"[name={name}]")) for name in ("from_step", "to_step"))
        assert 0 < first < last < service.get(API)["step"]
        assert f"from_step={first}&to_step={last}" in page.url
        page.reload()
        tab.charted()
        assert page.input_value("[name=from_step]") == str(first)
        page.click("text=Whole run")
        page.wait_for_url(f"**{PAGE}")
        assert tab.complaints == []


@pytest.mark.timeout(120)
def test_it_is_used_with_the_keyboard_alone(service, stalled, browser):
    """Skip link first; the arrow keys choose a rank on the heat map, which says its numbers, and Enter opens it."""
    with browser.tab(service.url, reduced_motion="reduce") as tab:
        page = tab.page
        tab.visit(service.url + PAGE)
        page.wait_for_function("() => document.querySelector('#heat').dataset.loaded === '2'")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.focus("#heat-canvas")
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "() => document.querySelector('#heat-readout').textContent.startsWith('Rank 1')"
        )
        assert "sync wait" in page.inner_text("#heat-readout")
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('Rank 1')")
        assert tab.complaints == []


@pytest.mark.timeout(120)
def test_what_a_job_sends_never_becomes_an_element(service, browser):
    """Through the real protocol: node, model, layers, group of losses, metrics, events; nothing runs and nothing is asked."""
    bad = "<img src=x onerror=alert(1)>"
    names = dict.fromkeys(("hostname", "model", "optimizer", "device", "torch_version"), bad)
    rank = Rank(service.grpc_address, hello("markup", blocks=[bad], **names))
    rank.send(
        steps(0, 60),
        events=[pb.Event(step=10, kind="note", text=bad)],
        evaluations=[pb.EvaluationPoint(step=20, loss=1.0, samples=8, metrics={bad: 0.5})],
    )
    block = steps(60, 20)
    block.loss_sum[5] = float("nan")
    rank.send(block)
    rank.wait_accepted()
    assert rank.rejections == []
    wait_until("the steps", lambda: (service.get("/api/v1/runs/markup") or {"step": 0})["step"] >= 78)
    with browser.tab(service.url) as tab:
        tab.page.on("dialog", lambda dialog: tab.complaints.append(f"dialog: {dialog.message}"))
        for path in ("/", "/runs/markup", "/runs/markup/ranks/0"):
            tab.visit(service.url + path)
            if tab.page.query_selector("#charts"):
                tab.charted()
            assert tab.page.locator("img[src='x']").count() == 0
            if path == "/runs/markup":
                assert bad in tab.page.inner_text("#chart-evaluation")
        tab.visit(f"{service.url}/runs/markup")
        wait_until("the event", lambda: bad in tab.page.inner_text("#history"))
        assert tab.complaints == []
    rank.finish()
