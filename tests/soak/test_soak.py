"""Some minutes of `make soak`; STALLWATCH_SOAK_MINUTES says how many, 5 when it does not."""

from __future__ import annotations

import os

import pytest

from soak.run import soak

# Read here: no setting of the outside reaches a test later.
MINUTES = float(os.environ.get("STALLWATCH_SOAK_MINUTES", "5"))


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 360)
def test_nothing_is_lost_and_nothing_grows(tmp_path):
    """Under traffic, faults and readers."""
    report = soak(tmp_path, MINUTES)
    assert report.holds, "\n" + report.text()
