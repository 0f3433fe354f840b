"""The fault suite, one seed: in `make test` a scenario a kind and healthy twins, in `make suites` all scenarios at all their sizes.

`make bench-faults` runs it with more seeds, and writes tables.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from faults.bench import IDLE_JOBS, open_bench
from faults.catalogue import SCENARIOS
from faults.judge import BAD
from faults.scenario import Case, Lane
from stallwatch.detector.checks import CHECKS

REPRESENTATIVE = {
    ("sync/bypass-later", 2),
    ("sync/bit-flip", 3),
    ("update/stale-2", 2),
    ("update/other-learning-rate", 3),
    ("update/zero-learning-rate", 2),
    ("data/same-on-two", 4),
    ("data/repeated-order", 2),
    ("data/uneven-from-start", 4),
    ("data/fewer-micro-batches", 2),
    ("data/wrong-labels", 4),
    ("scaling/huge-batch", 2),
    ("scaling/twice-scaled-rate", 2),
    ("scaling/lost-throughput", 2),
    ("scaling/slow-network", 2),
    ("progress/slow-compute-50", 2),
    ("progress/input-bound", 2),
    ("progress/hang-in-branch", 3),
    ("progress/killed-others-wait", 3),
    ("healthy/plain-mlp", 4),
    ("healthy/accumulation-declared", 2),
    ("healthy/join", 2),
    ("healthy/checkpoints", 2),
    ("healthy/scaler", 2),
    ("healthy/power-sgd", 2),
    ("healthy/sharded", 2),
    ("healthy/local-sgd", 2),
    ("healthy/warm-restarts", 2),
    ("healthy/restarted-larger", 2),
}
"""Scenarios of `make test`, and their numbers of ranks: one a kind of finding, and a healthy twin a mechanism."""
SIDE_BY_SIDE = 2
CASE_SECONDS = 400
"""For a case, and for those before it that its test waits for."""


def _cases() -> list[object]:
    """Every case whose kind is decided, marked with the lane that runs it."""
    known = [each for each in SCENARIOS.values() if each.kind is None or each.kind in CHECKS]
    cases = []
    for case in (Case(scenario, 0, ranks) for scenario in known for ranks in scenario.ranks):
        marks = [] if (case.scenario.name, case.ranks) in REPRESENTATIVE else [pytest.mark.suite]
        if case.scenario.lane is Lane.ALONE:
            marks.append(pytest.mark.alone)
        cases.append(pytest.param(case, marks=marks, id=case.run))
    gone = REPRESENTATIVE - {(each.name, ranks) for each in known for ranks in each.ranks}
    assert not gone, f"no such cases: {sorted(gone)}"
    return cases


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One service, and the process that ranks are forked from."""
    with open_bench(tmp_path_factory.mktemp("faults")) as bench:
        yield bench


@pytest.fixture(scope="module")
def outcomes(bench, request):
    """What will come of each case that was selected; those that timing does not matter to run side by side, in the order of the tests."""
    selected = [
        item.callspec.params["case"] for item in request.session.items if item.path == request.node.path
    ]
    with ThreadPoolExecutor(IDLE_JOBS) as idle, ThreadPoolExecutor(SIDE_BY_SIDE) as shared:
        pools = {Lane.IDLE: idle, Lane.SHARED: shared}
        yield {
            case.run: pools[case.scenario.lane].submit(bench.run, case)
            for case in selected
            if case.scenario.lane in pools
        }
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


@pytest.mark.timeout(CASE_SECONDS)
@pytest.mark.parametrize("case", _cases())
def test_case_is_judged_right(bench, outcomes, case):
    """Faults are found by their name, soon and on the right rank; healthy twins are left in peace."""
    outcome = outcomes[case.run].result() if case.run in outcomes else bench.run(case)
    assert outcome.verdict not in BAD, outcome.as_dict()
