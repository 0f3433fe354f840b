"""The chaos table: in `make test` a fault of each side, in `make suites` all of them; `make bench-chaos` writes the table."""

from __future__ import annotations

import pytest

from chaos.bench import open_bench
from chaos.catalogue import FAULTS

REPRESENTATIVE = {
    "network/half-open",
    "rank/forks",
    "rank/ends-by-error",
    "detector/analyzer-killed",
}
assert set(FAULTS) >= REPRESENTATIVE


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One detector for all."""
    with open_bench(tmp_path_factory.mktemp("chaos")) as bench:
        yield bench


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=[] if each in REPRESENTATIVE else [pytest.mark.suite], id=each)
        for each in FAULTS
    ],
)
def test_every_promise_is_kept(bench, name):
    """Training with the same bits, every step counted once, every finding kept."""
    outcome = bench.run(FAULTS[name])
    assert not outcome.problems(), outcome.as_dict()
