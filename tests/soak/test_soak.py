"""A minute of `make soak` in `make test`; in `make suites` as many as STALLWATCH_SOAK_MINUTES says, 5 when it does not."""

from __future__ import annotations

import os

import pytest

from soak.run import soak

# Read here: no setting of the outside reaches a test later.
MINUTES = float(os.environ.get("STALLWATCH_SOAK_MINUTES", "5"))
BRIEF_MINUTES = 1.0
"""Enough for three kinds of fault and two kills of the service; what grows shows in more."""


@pytest.mark.timeout(60 * BRIEF_MINUTES + 360)
def test_nothing_is_lost(tmp_path):
    """Under traffic, faults and readers: each step once, each finding on the right runs, no answer of 500."""
    report = soak(tmp_path, BRIEF_MINUTES)
    assert report.right, "\n" + report.text()


@pytest.mark.suite
@pytest.mark.timeout(60 * MINUTES + 360)
def test_nothing_is_lost_and_nothing_grows(tmp_path):
    """The same, and memory, threads, files and tasks stay where they are."""
    report = soak(tmp_path, MINUTES)
    assert report.holds, "\n" + report.text()
