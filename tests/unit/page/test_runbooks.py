"""Runbooks: the documents of the repository, rendered, with nothing in them that could run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.http.page import runbooks
from support.read_model import Analyses, pages

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def client():
    """A client of the application."""
    with pages(Analyses({})) as client:
        yield client


ABOUT_THE_SERVICE = sorted(path.stem for path in (ROOT / "docs/runbooks").glob("*.md"))


@pytest.mark.parametrize("name", [*VOCABULARY, *ABOUT_THE_SERVICE])
def test_every_alert_has_a_runbook(client, name):
    """Of a kind, or about the service: under its name, with a heading."""
    answer = client.get(f"/runbooks/{name}")
    assert answer.status_code == 200
    assert re.search(r"<h1>.*</h1>", answer.text)


def test_a_name_that_is_none_gives_those_there_are(client):
    """With 404, and the name as text."""
    answer = client.get("/runbooks/<b>no</b>")
    assert answer.status_code == 404
    assert "&lt;b&gt;no&lt;/b&gt;" in answer.text
    assert 'href="/runbooks/lr_too_low"' in answer.text


@pytest.mark.parametrize("name", ["../api", "..%2Fapi", "%2Fetc%2Fpasswd", "causes%2Flr_too_low", "README"])
def test_only_runbooks_are_served(client, name):
    """No other file, whatever the path."""
    assert client.get(f"/runbooks/{name}").status_code == 404


def test_links_lead_to_runbooks_or_outside():
    """What is not served is text; a link that would run something is none."""
    html = runbooks.render(
        "[a](../causes/lr_too_low.md#what) [b](noise_floor.md) [c](https://example.org/x) [d](../metrics.md) "
        "[e](javascript:alert(1)) [f](//example.org/y.md) [g](#here)"
    )
    assert '<a href="/runbooks/lr_too_low#what">a</a>' in html
    assert '<a href="/runbooks/noise_floor">b</a>' in html
    assert '<a href="https://example.org/x" rel="noopener noreferrer">c</a>' in html
    assert '<a href="#here">g</a>' in html
    assert html.count("<a ") == 4


def test_markup_in_a_document_stays_text():
    """And pictures are their words."""
    html = runbooks.render("<script>alert(1)</script> ![a picture](https://example.org/x.png)")
    assert "<script" not in html
    assert "<img" not in html
    assert "a picture" in html


def test_a_wheel_brings_the_folders_along():
    """Every folder that is looked into is forced into the wheel, where the code looks for it."""
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["wheel"]["force-include"]
    for source, target in included.items():
        assert (ROOT / source).is_dir(), source
        assert target == f"stallwatch/detector/http/page/documents/{source.removeprefix('docs/')}"
    assert {Path(source).name for source in included} == set(runbooks._FOLDERS)
