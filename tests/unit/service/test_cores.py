"""How many cores there are."""

from __future__ import annotations

import os

import pytest

from stallwatch.detector.engine.cluster import MOST_STARTS, Cluster
from stallwatch.detector.engine.cores import cores

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("max 100000\n", HERE),
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("150000 100000\n", min(2, HERE)),
        ("6400000 100000\n", min(64, HERE)),
        ("0 100000\n", 1),
        ("nonsense", HERE),
        (None, HERE),
    ],
)
def test_a_container_says_how_many(tmp_path, says, found):
    """A part of a core counts as one."""
    limit = tmp_path / "cpu.max"
    if says is not None:
        limit.write_text(says)
    assert cores(limit) == found


def test_analyzers_start_so_that_cores_are_left():
    """On this machine; in a cluster they start elsewhere."""
    assert 1 <= Cluster(None).most_starts <= max(1, HERE // 2)
    assert Cluster("head:6379").most_starts == MOST_STARTS
