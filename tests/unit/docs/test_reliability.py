"""The page of promises: every test that it names exists, and its table has every fault of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

from chaos.catalogue import FAULTS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_it_names_exists():
    """A promise without its test is no promise."""
    named = set(re.findall(r"`(tests/[\w./-]+)`", PAGE))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_fault_is_in_the_table_or_said_to_be_missing():
    """Otherwise the page is older than the catalogue: `make bench-chaos ARGS="--rest --write-docs"`."""
    rows = set(re.findall(r"^\| ([a-z]+/[a-z-]+) \|", PAGE, re.MULTILINE))
    missing = set(re.findall(r"`([a-z]+/[a-z-]+)`", PAGE.partition("Not measured yet:")[2]))
    assert rows | missing == FAULTS.keys()
    assert not rows & missing
