"""axe-core, which knows the rules of WCAG, from npm: it is no part of the project."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.chromium import Tab

PACKAGE = "axe-core@4.14.1"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def require(folder: Path) -> str:
    """Its source, unpacked in a folder; without npm or what it fetches from, the test is skipped."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: apt-get install npm")
    packed = subprocess.run(
        ["npm", "pack", PACKAGE, "--silent"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {PACKAGE}")
    shutil.unpack_archive(folder / packed.stdout.strip(), folder, "gztar")
    return (folder / "package" / "axe.min.js").read_text()


def violations(tab: Tab, source: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """What it has to say about the page that is shown: rules, each with the first elements and why."""
    tab.page.evaluate(source)
    result: dict[str, Any] = tab.page.evaluate(
        "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", TAGS
    )
    assert len(result["passes"]) > 10
    return [
        (each["id"], [(node["html"][:160], node["failureSummary"][:200]) for node in each["nodes"][:3]])
        for each in result["violations"]
    ]
