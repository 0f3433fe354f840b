"""A representative part of the fault suite: a scenario a kind, healthy twins, one seed. `make bench-faults` runs all of it."""

from __future__ import annotations

import pytest

from faults.bench import open_bench
from faults.catalogue import SCENARIOS
from faults.judge import BAD
from faults.scenario import Case
from stallwatch.detector.checks import CHECKS

FAULTS = (
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
)
TWINS = (
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
)
CASES = [
    Case(SCENARIOS[name], 0, ranks)
    for name, ranks in (*FAULTS, *TWINS)
    if SCENARIOS[name].kind is None or SCENARIOS[name].kind in CHECKS
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All cases, run side by side as far as timing allows; by run."""
    with open_bench(tmp_path_factory.mktemp("faults")) as bench:
        return {outcome.case.run: outcome for outcome in bench.run_all(CASES, 2, lambda _outcome: None)}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.run)
def test_case_is_judged_right(outcomes, case):
    """Faults are found by their name, soon and on the right rank; healthy twins are left in peace."""
    outcome = outcomes[case.run]
    assert outcome.verdict not in BAD, outcome.as_dict()
