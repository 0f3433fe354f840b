"""axe-core, which knows the rules of WCAG, finds nothing to say about any page, light or dark."""

from __future__ import annotations

import shutil
import subprocess
from urllib.parse import quote

import pytest

from support.rank import Rank, hello, steps
from support.waiting import wait_until

AXE = "axe-core@4.14.1"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, from npm: it is no part of the project."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: apt-get install npm")
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(
        ["npm", "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=90, check=False
    )
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {AXE}")
    shutil.unpack_archive(folder / packed.stdout.strip(), folder, "gztar")
    return (folder / "package" / "axe.min.js").read_text()


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
            tab.page.evaluate(axe)
            result = tab.page.evaluate(
                "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", TAGS
            )
            assert len(result["passes"]) > 10
            said[path] = [
                (
                    each["id"],
                    [(node["html"][:160], node["failureSummary"][:200]) for node in each["nodes"][:3]],
                )
                for each in result["violations"]
            ]
    assert said == {path: [] for path in pages}
