"""Every kind has its page, and what a page says of settings, scenarios and tests is so."""

from __future__ import annotations

import ast
import fnmatch
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from faults.catalogue import SCENARIOS
from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.checks import CheckConfigs
from stallwatch.detector.core.vocabulary import VOCABULARY

ROOT = Path(__file__).parents[3]
HEADINGS = {
    "findings": [
        "How it is decided",
        "What it is confused with",
        "What it cannot see",
        "What to do",
        "What would confirm it",
        "How it is tested",
        "Settings",
        "Metrics and alert",
        "Sources",
    ],
    "causes": [
        "How it is decided",
        "What it is confused with",
        "What to do",
        "What would confirm it",
        "Sources",
    ],
}
FINDINGS = [kind.name for kind in VOCABULARY.values() if kind.category != "causes"]
SHARED = ("loss", "noise_scale", "align")
"""Settings that several checks rest on."""


def read(kind: str) -> str:
    """The page of a kind."""
    folder = "causes" if VOCABULARY[kind].category == "causes" else "findings"
    return (ROOT / f"docs/{folder}/{kind}.md").read_text()


def section(kind: str, heading: str) -> str:
    """The text below a heading."""
    (text,) = re.findall(rf"^## {heading}\n\n(.*?)(?=^## |\Z)", read(kind), re.MULTILINE | re.DOTALL)
    return text


def spans(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("kind", VOCABULARY)
def test_every_kind_has_a_page_of_one_shape(kind):
    """Its title is the kind, and all headings are there, in order; only findings without a heading say nothing."""
    page = read(kind)
    assert page.startswith(f"# `{kind}`\n\n")
    folder = "causes" if VOCABULARY[kind].category == "causes" else "findings"
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS[folder]
    assert all(section(kind, heading).strip() for heading in HEADINGS[folder])


def test_no_page_is_of_a_kind_that_there_is_not():
    """A kind that goes takes its page along."""
    pages = {path.stem for folder in HEADINGS for path in (ROOT / "docs" / folder).glob("*.md")}
    assert pages == set(VOCABULARY)


@pytest.mark.parametrize("kind", FINDINGS)
def test_quoted_settings_have_the_defaults_that_are_quoted(kind):
    """Every `name = value` of a page is a setting of its check, or of what it rests on, with that default."""
    analysis = AnalysisConfig()
    configs = [getattr(CheckConfigs(), kind), *(getattr(analysis, name) for name in SHARED)]
    assert all(is_dataclass(config) for config in configs)
    quoted = [span.split(" = ") for span in spans(read(kind)) if re.fullmatch(r"[a-z_]+ = \S+", span)]
    assert quoted
    for name, value in quoted:
        holders = [config for config in configs if name in {field.name for field in fields(config)}]
        assert holders, f"{name} is no setting of {kind}"
        assert getattr(holders[0], name) == ast.literal_eval(value), name


@pytest.mark.parametrize("kind", FINDINGS)
def test_a_page_names_tests_and_scenarios_that_there_are(kind):
    """And a kind that scenarios of the fault suite expect names every one of them."""
    named = spans(section(kind, "How it is tested"))
    paths = [span for span in named if span.startswith("tests/")]
    assert paths or "make bench" in section(kind, "How it is tested")
    assert [path for path in paths if not (ROOT / path).exists()] == []
    patterns = [span for span in named if re.match(r"[a-z_]+/", span) and span not in paths]
    assert [pattern for pattern in patterns if not fnmatch.filter(SCENARIOS, pattern)] == []
    expected = [name for name, scenario in SCENARIOS.items() if scenario.kind == kind]
    missed = [name for name in expected if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert missed == []


@pytest.mark.parametrize("kind", FINDINGS)
def test_a_page_states_the_severity(kind):
    """That of the vocabulary comes first."""
    lead = read(kind).partition("\n## ")[0]
    assert f"Severity `{VOCABULARY[kind].severity.value}`" in " ".join(lead.split())
