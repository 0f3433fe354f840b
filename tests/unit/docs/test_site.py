"""The documentation site builds without a warning, has no dead link, and asks nothing of anybody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from stallwatch.detector.core.vocabulary import VOCABULARY

ROOT = Path(__file__).parents[3]
BUILD_SECONDS = 120.0
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
"""What a browser fetches by itself."""

pytestmark = pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("material") is None,
    reason="mkdocs-material is not installed: pip install 'stallwatch[docs]'",
)


@dataclass
class Page(HTMLParser):
    """What a page links to, what it loads, and where it can be linked to."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    tables: int = 0

    def __post_init__(self) -> None:
        """Begin."""
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Take a tag."""
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.tables += tag == "table"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif given.get(LOADED.get(tag, ""), ""):
            self.loads.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a warning would have ended the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    """All pages, parsed, by the file that they are in; that for addresses without a page is none."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":
            found[path] = Page()
            found[path].feed(path.read_text())
    return found


def load_hook() -> Any:
    """The hook that MkDocs loads."""
    spec = spec_from_file_location("site_links", ROOT / "scripts/site_links.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def target(site: Path, path: Path, link: str) -> tuple[Path, str]:
    """The file that a link of a page leads to, and the place in it."""
    address, anchor = urldefrag(link)
    if not address:
        return path, anchor
    place = unquote(urlsplit(address).path)
    aim = (site / place.lstrip("/") if place.startswith("/") else path.parent / place).resolve()
    return (aim / "index.html" if aim.is_dir() else aim), anchor


def test_no_link_is_dead(site, pages):
    """Of every page, each link within the site leads to a file that is there, and to a place in it that is there."""
    dead = []
    for path, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme:
                continue
            aim, anchor = target(site, path, link)
            there = aim.is_file() and (
                not anchor or aim not in pages or unquote(anchor) in pages[aim].anchors
            )
            if not there:
                dead.append(f"{path.relative_to(site)} -> {link}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site, pages):
    """Scripts, styles, pictures and fonts are files of the site; nor has a page what makes the theme's script fetch more."""
    for path, page in pages.items():
        for load in page.loads:
            assert not urlsplit(load).netloc, f"{path.relative_to(site)} loads {load}"
            assert target(site, path, load)[0].is_file(), f"{path.relative_to(site)} misses {load}"
        assert 'class="mermaid"' not in path.read_text()
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text()), style.name


def test_every_kind_is_in_the_navigation(site, pages):
    """And its page has the tables that it is written with."""
    home = pages[site / "index.html"]
    reached = {target(site, site / "index.html", link)[0] for link in home.links if not urlsplit(link).scheme}
    for kind in VOCABULARY.values():
        folder = "causes" if kind.category == "causes" else "findings"
        page = site / folder / kind.name / "index.html"
        assert page in reached, kind.name
        assert folder == "causes" or pages[page].tables == 1


def test_tables_are_drawn_as_tables(pages):
    """No page shows the marks of a table that was not understood."""
    for path in pages:
        assert "<p>| " not in path.read_text(), path


def test_a_link_into_the_repository_becomes_a_path(pages, site):
    """Since the site does not have the file; and a path of the repository, since it is there."""
    text = (site / "faults" / "index.html").read_text()
    assert "<code>tests/faults/README.md</code>" in text
    assert not [link for page in pages.values() for link in page.links if "tests/faults" in link]


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[suite](../tests/faults/README.md)", "suite (`tests/faults/README.md`)"),
        ("[README](../tests/faults/README.md#adding-a-scenario)", "`tests/faults/README.md`"),
        ("[gone](../tests/gone.md)", "[gone](../tests/gone.md)"),
        ("[outside](../../outside)", "[outside](../../outside)"),
    ],
)
def test_only_links_to_files_of_the_repository_are_rewritten(link, shown):
    """What leads nowhere stays a link, and fails the build."""
    hook = load_hook()
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    assert hook.on_page_markdown(link, page=page, config={"docs_dir": str(ROOT / "docs")}) == shown
