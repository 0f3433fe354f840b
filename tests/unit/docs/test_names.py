"""Commands, options, variables, metrics, settings and code that the pages show are there, as they are written."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from stallwatch.agent import _environment as environment
from stallwatch.agent import attach
from stallwatch.agent._config import Probes
from stallwatch.detector import cli
from stallwatch.detector.http.catalogue import METRICS
from stallwatch.detector.service.analysis_settings import analysis_config
from stallwatch.detector.service.settings import ENVIRONMENT_PREFIX, Settings, load
from stallwatch.detector.store import tables

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [
    page
    for page in PAGES
    if page.parent.name in {"findings", "causes"}
    or page.stem
    in {
        "README",
        "index",
        "quick-start",
        "concepts",
        "operations",
        "security",
        "faq",
        "comparison",
        "settings",
        "api",
        "diagnosis",
        "findings",
    }
]
SURFACE = (ROOT / "tests/unit/surface.txt").read_text().splitlines()
"""Which another test keeps equal to the code."""


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """What is called with our command, in blocks and in the text."""
    text = page.read_text()
    found = re.findall(r"(?:^|`|\$ )stallwatch ([a-z][^`\n#|]*)", text, re.MULTILINE)
    return [each.strip() for each in found]


def named(page: Path, pattern: str) -> set[str]:
    """What of a page matches."""
    return set(re.findall(pattern, page.read_text()))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_commands_and_options_are_there(page):
    """`stallwatch show RUN --json` is a command that has this option."""
    for text in commands(page):
        words = text.split()
        assert words[0] in cli.COMMANDS, text
        # A command of commands, as `token create` is.
        deeper = any(line.startswith(f"cli {' '.join(words[:2])} ") for line in SURFACE)
        command = " ".join(words[: 2 if deeper else 1])
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert f"cli {command} {option}" in SURFACE, text


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_variables_metrics_and_arguments_are_there(page):
    """Names that begin with ours are ours; keywords of `attach` are its own."""
    variables = {value for name, value in vars(environment).items() if name.isupper()} | {"STALLWATCH_SERVER"}
    variables |= {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert named(page, r"\bSTALLWATCH_[A-Z_]*[A-Z]\b") - variables == set()
    known = METRICS.keys() | set(tables.metadata.tables)
    assert named(page, r"\bstallwatch_[a-z_]*[a-z]\b") - known == set()
    arguments = {*inspect.signature(attach).parameters, *(probe.name for probe in fields(Probes))}
    given = [part for call in named(page, r"attach\(([^)]*)\)") for part in re.findall(r"(\w+)=", call)]
    assert set(given) - arguments == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_has_a_syntax(page):
    """Python parses, and bash reads its blocks without running them."""
    for text in blocks(page, "python"):
        ast.parse(text)
    for text in blocks(page, "bash"):
        read = subprocess.run(
            ["bash", "-n"], input=text, capture_output=True, text=True, check=False, timeout=10
        )
        assert read.returncode == 0, (text, read.stderr)


def test_settings_that_are_shown_are_accepted(tmp_path):
    """The file of settings.md, and the variable that says the same, change what they say."""
    (block,) = blocks(ROOT / "docs/settings.md", "toml")
    file = tmp_path / "detector.toml"
    file.write_text(block)
    analysis = analysis_config(load({}, file).analysis)
    assert analysis.checks.hang.floor_seconds == 10
    assert analysis.disabled == ("communication_bound",)
    (variable,) = named(ROOT / "docs/settings.md", r"STALLWATCH_ANALYSIS='([^']+)'")
    assert analysis_config(json.loads(variable)).checks.hang == analysis.checks.hang
