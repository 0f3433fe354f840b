"""Every query, asked of a real Prometheus that has scraped a real detector."""

from __future__ import annotations

import math
import re

import pytest

from stallwatch.detector.core.views import RUN_STATES
from stallwatch.detector.mixin.grafana.promql import SEVERITIES, Scope
from support.grafana import BOARDS, QUERIES, filled
from support.waiting import wait_until

from .conftest import NAMESPACE, TOLD, TRAINED

EVERY = {"namespace": ".*", "job": ".*", "__rate_interval": "5s", "__range": "1h"}
SCRAPES = {
    "without a namespace": {**EVERY, "job": "machine"},
    "with a namespace": {**EVERY, "namespace": NAMESPACE},
}
RUNS = (TRAINED, TOLD)


def choices(board: str, values: dict[str, str]) -> list[dict[str, str]]:
    """Values of all variables: the overview shows all runs, the run's dashboard one after the other."""
    runs = (".*",) if board == "stallwatch-overview" else RUNS
    return [{**values, "run": run} for run in runs]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("values", SCRAPES.values(), ids=SCRAPES)
@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_query_has_data(observed, query, values):
    """For one of the runs at least, and numbers that are some; with the labels that its legend speaks of."""
    prometheus = observed.prometheus
    ask = prometheus.instant if query.instant else prometheus.over_time

    def answers():
        expressions = [filled(query.expression, choice) for choice in choices(query.board, values)]
        found = [series for expression in expressions for series in ask(expression)]
        return [(labels, numbers) for labels, numbers in found if not all(map(math.isnan, numbers))]

    for labels, _numbers in wait_until(f"data for {query}", answers):
        assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= labels.keys()
        if "run" in labels and query.board == "stallwatch-run":
            assert labels.get("namespace") == (NAMESPACE if values["namespace"] == NAMESPACE else None)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("board", BOARDS)
def test_variables_offer_what_there_is(observed, board):
    """Namespaces, jobs and runs, the first also where only some targets have it."""
    offered = {}
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
            offered[variable["name"]] = observed.prometheus.label_values(label, filled(selector, EVERY))
    assert offered == {
        "namespace": [NAMESPACE],
        "job": ["cluster", "machine"],
        "run": sorted(RUNS),
    }


@pytest.mark.timeout(240)
@pytest.mark.parametrize("run", RUNS)
def test_state_and_severity_are_those_of_the_api(observed, run):
    """The numbers that panels map to names stand for what the detector says, once for each run and kind."""
    scope = Scope('run="$run"')
    values = {**SCRAPES["without a namespace"], "run": run}

    def agree():
        known = observed.service.get(f"/api/v1/runs/{run}")
        ((_, (state,)),) = observed.prometheus.instant(filled(scope.state(), values))
        severities = {
            labels["kind"]: SEVERITIES[int(number) - 1]
            for labels, (number,) in observed.prometheus.instant(filled(scope.severity(), values))
        }
        firing = {finding["kind"]: finding["severity"] for finding in known["findings"]}
        assert firing
        return RUN_STATES[int(state)] == known["state"] and severities == firing

    wait_until("the same state and findings in both", agree)


@pytest.mark.timeout(240)
def test_a_run_seen_by_two_targets_is_one_run(observed):
    """As while the detector moves to another pod: not two rows, not a sum. Other namespaces stay apart."""
    scope = Scope('run="$run"')
    expression = filled(scope.latest("stallwatch_step"), {**EVERY, "run": TRAINED})
    answer = sorted(
        (labels.get("namespace", ""), value) for labels, (value,) in observed.prometheus.instant(expression)
    )
    last = observed.service.get(f"/api/v1/runs/{TRAINED}")["step"]
    assert answer == [("", last), (NAMESPACE, last)]
