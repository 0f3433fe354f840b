"""The pages over real analyses: what they show, in which order, where they lead, and what they never let through."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from html import unescape
from urllib.parse import quote

import pytest

from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.inputs import Event, RankBatch
from stallwatch.detector.core.verdicts import Cause
from stallwatch.detector.core.views import GapView
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.http.page import static_files
from support.read_model import Analyses, pages
from support.simulation import Job, play

SICK, CALM, OVER = "team/sick:1", "team/calm", "old"
MARKUP = "<img src=x onerror=alert(1)> \"'&<script>alert(2)</script>"


def found(run: str, kind: str, **fields) -> Finding:
    """A finding of a kind."""
    given = {
        "id": f"{run}#{kind}#1",
        "run": run,
        "kind": kind,
        "category": VOCABULARY[kind].category,
        "severity": VOCABULARY[kind].severity.value,
        "confidence": 0.9,
        "status": "firing",
        "since_step": 40,
        "detected_step": 60,
        "resolved_step": None,
        "ranks": (1,),
        "layers": ("h.0",),
        "reason": f"It is {kind} since step 40.",
        "evidence": {"wait_seconds": 0.25, "ranks": (1, 2), "ratios": (1.5, 2.5), "stack": "a\nb"},
        "advice": ("Look at rank 1.",),
        "causes": (),
        "opened_at": 1_700_000_000.0,
    }
    return Finding(**{**given, **fields})


def analysed(run: str, **fields) -> RunAnalysis:
    """A short job of four ranks."""
    analysis = RunAnalysis(run)
    job = Job(run=run, steps=100, **fields)
    now = play(analysis, job)
    event = RankBatch(sequence=10_000, events=(Event(90, "augmentation", "mixup on"),))
    analysis.batch(now, 0, job.incarnation, event)
    analysis.tick(now + 60)
    return analysis


@pytest.fixture(scope="module")
def model():
    """Three runs: one with findings, one without, one long over."""
    model = Analyses({name: analysed(name) for name in (OVER, CALM, SICK)})
    causes = (Cause("lr_too_low", 0.8, "The rate is low."), Cause("noise_floor", 0.15, "It is noise."))
    firing = (found(SICK, "plateau", causes=causes), found(SICK, "missing_gradient_sync"))
    resolved = found(SICK, "straggler", status="resolved", resolved_step=70, resolved_at=1_700_000_100.0)
    model.shown[SICK, "view"] = replace(model.analyses[SICK].view(), findings=firing)
    model.shown[SICK, "findings"] = (*firing, resolved)
    model.shown[OVER, "view"] = replace(
        model.analyses[OVER].view(), state="finished", updated_at=1_600_000_000.0
    )
    return model


@pytest.fixture(scope="module")
def client(model):
    """A client of the application."""
    with pages(model) as client:
        yield client


def address(run: str) -> str:
    """A run's page."""
    return f"/runs/{quote(run, safe='')}"


def words(html: str) -> str:
    """The text of a page."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def test_runs_that_need_attention_come_first(client):
    """Then the latest; each with its state, its loss and the sentence of its findings."""
    page = client.get("/").text
    order = [page.index(f">{run}</a>") for run in (SICK, CALM, OVER)]
    assert order == sorted(order)
    text = words(page)
    assert "3 runs · 1 critical" in text
    assert "It is plateau since step 40." in text
    assert "critical missing gradient sync" in text


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("?name=CALM", [CALM]),
        ("?state=finished", [OVER]),
        ("?state=attention", [SICK]),
        ("?name=team/&state=", [SICK, CALM]),
        ("?state=nonsense", [SICK, CALM, OVER]),
    ],
)
def test_runs_are_filtered_by_name_and_state(client, query, names):
    """With a form that needs no script; what is no state is no filter."""
    page = client.get(f"/{query}").text
    assert [run for run in (SICK, CALM, OVER) if f">{run}</a>" in page] == names


def test_a_filter_that_nothing_fits_says_so(client):
    """And how to get out of it."""
    assert 'No run fits this filter. <a href="/">Show all 3</a>' in client.get("/?name=nobody").text


def test_without_runs_the_page_says_what_to_do():
    """The lines to paste."""
    with pages(Analyses({})) as client:
        text = words(client.get("/").text)
    assert "export STALLWATCH_ENDPOINT=" in text
    assert "attach(model, optimizer)" in text


def test_a_run_shows_all_of_it_without_a_script(client):
    """State, numbers, findings with causes, ranks, states and events are in what the server sends."""
    text = words(client.get(address(SICK)).text)
    for part in (
        "Findings 2 firing",
        "Most likely: lr too low (80 %), then noise floor (15 %)",
        "Look at rank 1.",
        "1 resolved",
        "All ranks",
        "node0",
        "augmentation mixup on you",
        "warming up",
        "Loss as a table",
    ):
        assert part in text, part


def test_a_finding_shows_evidence_as_tables(client):
    """Numbers with their units, lists side by side, long texts as they are; causes with bars; what to do."""
    page = client.get(f"{address(SICK)}/findings/{quote(SICK + '#plateau#1', safe='')}").text
    assert '<tr><th scope="row">wait</th><td class="number wrap">250 ms</td></tr>' in page
    assert '<th scope="col" class="number">ranks</th><th scope="col" class="number">ratios</th>' in page
    assert '<td class="number">2</td><td class="number">2.5</td>' in page
    assert "<code>a\nb</code>" in page
    assert 'class="bar-fill" width="80.0"' in page
    assert 'href="/runbooks/lr_too_low"' in page
    assert "Look at rank 1." in page


def test_a_rank_is_compared_with_the_others(client):
    """And links to its neighbours."""
    page = client.get(f"{address(SICK)}/ranks/1").text
    assert "Its steps beside those of all 4 ranks" in page
    assert f'href="{address(SICK)}/ranks/0"' in page
    assert f'href="{address(SICK)}/ranks/2"' in page
    assert "missing gradient sync" in page


@pytest.mark.parametrize(
    "path",
    ["/runs/none", f"{address(SICK)}/findings/none", f"{address(SICK)}/ranks/99", f"{address(SICK)}/ranks/x"],
)
def test_what_is_not_there_is_a_page_that_says_so(client, path):
    """With 404 and a way back."""
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert 'href="/"' in answer.text


def test_every_link_of_every_page_leads_somewhere(client):
    """Pages, files and API alike; runbooks have a test of their own."""
    seen, todo = set(), ["/"]
    while todo:
        path = todo.pop()
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, path
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        for link in map(unescape, re.findall(r'(?:href|src)="(/[^"#]*)', answer.text)):
            if link not in seen and link not in todo and not link.startswith("/runbooks"):
                todo.append(link)
    assert len(seen) > 20


def test_a_page_that_has_not_changed_is_not_sent_again(client):
    """The browser asks with the tag that it was given."""
    first = client.get("/runbooks")
    again = client.get("/runbooks", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_files_are_kept_for_good_under_the_hash_of_their_content(client):
    """Another version is none of ours."""
    path = static_files.address("page.css")
    answer = client.get(path, headers={"accept-encoding": "gzip"})
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/css")
    assert gzip.decompress(answer.content) == static_files.files()["page.css"]
    assert client.get(path.replace(static_files.version(), "0" * 16)).status_code == 404
    assert client.get(f"/static/{static_files.version()}/../routes.py").status_code == 404


@pytest.mark.parametrize("path", ["/", address(SICK), "/api/v1/runs", "/metrics", "/nothing"])
def test_every_answer_allows_nothing_but_what_is_ours(client, path):
    """No script, style or picture from elsewhere or from inside the page; no frame; no guessing of types."""
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_pages_keep_to_their_own_policy(client):
    """No inline script, style or handler, and nothing from elsewhere."""
    for path in ("/", address(SICK), f"{address(SICK)}/ranks/1", "/runbooks/lr_too_low"):
        page = client.get(path).text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page), path
        assert all("src=" in script for script in re.findall(r"<script[^>]*>", page)), path
        assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', page), path


def test_nothing_that_a_job_sends_becomes_markup():
    """Names of run, group, node, model, layers and metrics, events, sentences, evidence, advice and causes."""
    analysis = analysed(SICK)
    model = Analyses({MARKUP: analysis})
    finding = found(
        MARKUP,
        "plateau",
        reason=MARKUP,
        layers=(MARKUP,),
        evidence={MARKUP: MARKUP, "list": (MARKUP, MARKUP), "long": MARKUP * 5},
        advice=(MARKUP,),
        causes=(Cause("lr_too_low", 0.5, MARKUP),),
    )
    view = analysis.view()
    info = dict.fromkeys(view.info, MARKUP)
    model.shown[MARKUP, "view"] = replace(view, run=MARKUP, group=MARKUP, findings=(finding,), info=info)
    resolved = replace(finding, id=MARKUP, status="resolved", resolved_step=1)
    model.shown[MARKUP, "findings"] = (finding, resolved)
    model.shown[MARKUP, "ranks"] = tuple(replace(rank, node=MARKUP) for rank in analysis.ranks())
    model.shown[MARKUP, "series_names"] = (*analysis.series_names(), f"evaluation_{MARKUP}")
    model.shown[MARKUP, "events"] = tuple(
        replace(event, kind=MARKUP, text=MARKUP) for event in analysis.events()
    )
    run = address(MARKUP)
    with pages(model) as client:
        for path in (
            "/",
            f"/?name={quote(MARKUP)}",
            run,
            f"{run}/ranks/1",
            f"{run}/findings/{quote(finding.id, safe='')}",
            f"/runbooks/{quote(MARKUP, safe='')}",
            f"/runs/{quote(MARKUP + '2', safe='')}",
        ):
            page = client.get(path).text
            assert "<img src=x" not in page, path
            assert "<script>" not in page, path
            assert "&lt;img src=x" in page, path


def test_a_run_leads_to_grafana_where_there_is_one():
    """To its dashboard, with its name; otherwise there is no link."""
    model = Analyses({SICK: analysed(SICK)})
    with pages(model, Links(grafana_url="https://grafana.example.org")) as there:
        address_there = f"https://grafana.example.org/d/stallwatch-run?var-run={quote(SICK, safe='')}"
        assert f'href="{address_there}"' in there.get(address(SICK)).text
    with pages(model) as without:
        assert "Grafana" not in without.get(address(SICK)).text


HOLES = (
    GapView(5, 9, (2,), 1, ("buffer_full",), 5),
    GapView(30, 45, tuple(range(64)), 1024, ("rejected", "internal_error"), 16_384),
    GapView(60, 80, (1, 3), 2, (), 42),
    GapView(90, 90, (0,), 1, ("late",), 1),
)


def test_missing_data_is_said_where_it_bears_on_what_is_said():
    """A run shows all of it; a finding what it may have rested on, from before its onset to its end."""
    model = Analyses({SICK: analysed(SICK)})
    early = found(SICK, "straggler", since_step=10, detected_step=12, status="resolved", resolved_step=20)
    late = found(SICK, "plateau", since_step=70, detected_step=75)
    model.shown[SICK, "view"] = replace(model.analyses[SICK].view(), gaps=HOLES, unplaced_steps=7)
    model.shown[SICK, "findings"] = (early, late)
    rests = ": what the finding says of these steps rests on the rest."
    texts = [
        "Data is missing from step 5 to 9 (buffer full, rank 2)",
        "Data is missing from step 30 to 45 (rejected by the detector, an error in the agent, ranks 0-63 (1,024 in all))",
        "Data is missing from step 60 to 80 (it never arrived, ranks 1, 3)",
        "Data is missing at step 90 (it came too late to be analysed, rank 0)",
    ]
    with pages(model) as client:
        whole = words(client.get(address(SICK)).text)
        answer = client.get(f"/api/v1/runs/{quote(SICK, safe='')}/gaps").json()
        shown = {
            finding.kind: words(client.get(f"{address(SICK)}/findings/{quote(finding.id, safe='')}").text)
            for finding in (early, late)
        }
    assert all(f"{text}." in whole for text in texts)
    assert "7 steps of ranks are missing of which an older version did not note where" in whole
    assert [text + rests in shown["straggler"] for text in texts] == [True, False, False, False]
    assert [text + rests in shown["plateau"] for text in texts] == [False, True, True, True]
    assert [gap["text"] for gap in answer["gaps"]] == texts
    assert answer["gaps"][0] == {
        "from_step": 5,
        "to_step": 9,
        "ranks": [2],
        "ranks_total": 1,
        "reasons": ["buffer_full"],
        "steps": 5,
        "text": texts[0],
    }
    assert (answer["run"], answer["unplaced_steps"]) == (SICK, 7)


def test_a_run_of_which_nothing_is_missing_does_not_speak_of_it(client):
    """Neither on its page nor on those of its findings."""
    for page in (address(SICK), f"{address(SICK)}/findings/{quote(SICK + '#plateau#1', safe='')}"):
        assert "issing data" not in client.get(page).text
