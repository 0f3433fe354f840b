"""docs/questions.md names kinds, pages and scenarios that exist, and every cause answers a question."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.diagnosis_scenarios import load
from faults.catalogue import SCENARIOS
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.diagnosis.causes import CAUSES

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in (ROOT / "docs/questions.md").read_text().splitlines()
    if line.startswith("| ") and "`" in line
]


@pytest.mark.parametrize(
    ("question", "kind", "page", "tested"), ROWS, ids=[row[1] + row[0][:20] for row in ROWS]
)
def test_an_answer_has_a_kind_a_page_and_a_test(question, kind, page, tested):
    """Nothing is named that is not there."""
    assert kind.strip("`") in VOCABULARY, question
    (target,) = re.findall(r"\]\((.+?)\)", page)
    assert (ROOT / "docs" / target).exists()
    names = {"diagnosis": tuple(load()), "faults": tuple(SCENARIOS)}
    for each in tested.split():
        where, _, prefix = each.partition(":")
        found = (
            (ROOT / prefix).exists() if where == "logs" else any(n.startswith(prefix) for n in names[where])
        )
        assert found, each


def test_every_cause_answers_a_question():
    """And has its page."""
    assert set(CAUSES) <= {row[1].strip("`") for row in ROWS}
    assert all((ROOT / f"docs/causes/{kind}.md").exists() for kind in CAUSES)
