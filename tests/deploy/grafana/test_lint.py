"""What makes a good dashboard, as rules: those of Grafana's dashboard-linter, and a few of our own."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from stallwatch.detector.http.catalogue import METRICS
from support.grafana import BOARDS, QUERIES, panels

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SHOWN_AS_TOTALS = {
    # Kept by the store over restarts, and born with the value that a finding has had since its onset: an increase would miss that.
    "stallwatch_stalled_gpu_seconds_total",
    "stallwatch_findings_total",
    # What was ever lost is the question, however long ago.
    "stallwatch_agent_dropped_total",
    "stallwatch_ingest_run_duplicate_batches_total",
    "stallwatch_analyzer_restarts_total",
    "stallwatch_analyzer_failures_total",
    "stallwatch_analyzer_snapshot_failures_total",
    "stallwatch_webhook_dead_letters_total",
}
"""Counters without a rate, and why."""
BOTH = pytest.mark.parametrize("board", BOARDS)


@BOTH
def test_the_data_source_is_a_variable(board):
    """In panels, queries, annotations and variables; nothing names one."""
    content = BOARDS[board]
    places = [*panels(board), *content["annotations"]["list"]]
    places += [target for panel in panels(board) for target in panel["targets"]]
    places += [variable for variable in content["templating"]["list"] if variable["type"] == "query"]
    assert [place for place in places if place["datasource"] != DATASOURCE] == []
    first = content["templating"]["list"][0]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")


@BOTH
def test_variables_choose_target_and_run(board):
    """Namespace and job are all by default, also where there is no such label; the overview takes many runs, the run's one."""
    variables = {variable["name"]: variable for variable in BOARDS[board]["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "run", "detector"]
    several = ["namespace", "job", *(["run"] if board == "stallwatch-overview" else [])]
    for name in several:
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]
        assert variables[name]["allValue"] == ".*"
        assert variables[name]["current"]["value"] == "$__all"
    assert variables["run"]["multi"] == ("run" in several)
    assert all(variable["label"] and variable["description"] for variable in variables.values())


@BOTH
def test_every_panel_says_what_it_shows(board):
    """A title of its own, a description in sentences, and a unit."""
    shown = panels(board)
    titles = [panel["title"] for panel in shown]
    assert sorted(titles) == sorted(set(titles))
    for panel in shown:
        assert re.fullmatch(r"[A-Z0-9].*\.", panel["description"]), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@BOTH
def test_panels_lie_side_by_side(board):
    """None covers another, and none is wider than the page; each has its own number."""
    everything = BOARDS[board]["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not taken & cells, panel["title"]
        assert columns[-1] < 24, panel["title"]
        taken |= cells


@BOTH
def test_queries_have_names_of_their_own(board):
    """Letters within a panel, and the same query once."""
    for panel in panels(board):
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names), panel["title"]
        assert all(names), panel["title"]


@BOTH
def test_nothing_is_stacked_and_nothing_refreshes_by_itself(board):
    """Stacked lines cannot be read, and an unwatched dashboard need not ask Prometheus."""
    assert BOARDS[board]["refresh"] == ""
    assert "stacking" not in json.dumps(BOARDS[board])


@BOTH
def test_links_lead_to_dashboards_that_exist(board):
    """By readable uids; those to the detector begin with the variable."""
    text = json.dumps(BOARDS[board])
    linked = set(re.findall(r'"(?:/d/)([\w-]+)', text))
    assert linked
    assert linked <= BOARDS.keys()
    urls = re.findall(r'"url": "([^"]*)"', text)
    assert all(url.startswith(("/d/", "${detector:raw}/")) for url in urls), urls
    assert BOARDS[board]["uid"] == board


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_queries_follow_the_variables(query):
    """Namespace and job always, the run wherever a metric has one."""
    for selector in re.findall(r"\w+\{[^}]*\}", query.expression):
        name, matchers = selector.rstrip("}").split("{")
        assert 'namespace=~"$namespace", job=~"$job"' in matchers
        metric = METRICS.get(name) or METRICS.get(re.sub(r"_(bucket|sum|count)$", "", name))
        if metric is not None and "run" in metric.labels:
            assert ('run=~"$run"' if query.board == "stallwatch-overview" else 'run="$run"') in matchers
    assert re.search(r"\w+\{", query.expression)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_counters_are_shown_as_rates(query):
    """Over `$__rate_interval`, which suits every scrape interval; but for those that are totals on purpose."""
    counters = {name for name, metric in METRICS.items() if metric.type == "counter"} - SHOWN_AS_TOTALS
    for name in counters:
        uses = query.expression.count(f"{name}{{")
        assert query.expression.count(f"rate({name}{{") == uses
    assert re.findall(r"\[([^\]]*)\]", query.expression) == re.findall(
        r"\[(\$__rate_interval|\$__range)\]", query.expression
    )
