"""A few faults of the chaos table, one of each side. `make bench-chaos` does all of them."""

from __future__ import annotations

import pytest

from chaos.bench import open_bench
from chaos.catalogue import FAULTS

NAMES = (
    "network/half-open",
    "rank/forks",
    "rank/ends-by-error",
    "detector/analyzer-killed",
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One detector for all."""
    with open_bench(tmp_path_factory.mktemp("chaos")) as bench:
        yield bench


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", NAMES)
def test_every_promise_is_kept(bench, name):
    """Training with the same bits, every step counted once, every finding kept."""
    outcome = bench.run(FAULTS[name])
    assert not outcome.problems(), outcome.as_dict()
