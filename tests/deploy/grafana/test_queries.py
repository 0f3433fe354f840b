"""Every query is PromQL about metrics that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from stallwatch.detector.core.views import RUN_STATES, STEP_PHASES
from stallwatch.detector.http.catalogue import METRICS
from stallwatch.detector.mixin.grafana.promql import SEVERITIES
from support.grafana import QUERIES, filled

VALUES = {
    "__rate_interval": "1m",
    "__range": "6h",
    "namespace": ".*",
    "job": ".*",
    "run": "a/run:1",
}
ADDED_BY_THE_SCRAPE = {"namespace", "job", "instance"}
KNOWN_VALUES = {
    "state": RUN_STATES,
    "severity": SEVERITIES,
    "phase": STEP_PHASES,
    "split": ("train", "evaluation"),
    "bound": ("estimate", "low", "high"),
    "stage": ("local", "reduced"),
}
ALL = pytest.mark.parametrize("query", QUERIES, ids=str)


def nodes(expression: Any) -> Iterator[Any]:
    """All of a parsed expression."""
    yield expression
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (child := getattr(expression, name, None)) is not None:
            yield from nodes(child)
    for child in getattr(expression, "args", None) or ():
        yield from nodes(child)


def parsed(expression: str) -> list[Any]:
    """The same, from text."""
    return list(nodes(promql_parser.parse(filled(expression, VALUES))))


def labels_of(name: str) -> set[str]:
    """Labels of a scraped series, by the catalogue; independent of what the dashboards' builder believes."""
    if name == "up":
        return ADDED_BY_THE_SCRAPE
    part = {"_bucket": {"le"}, "_sum": set(), "_count": set()}
    for suffix, added in part.items():
        whole = METRICS.get(name.removesuffix(suffix))
        if whole is not None and name.endswith(suffix) and whole.type in ("histogram", "summary"):
            return {*whole.labels, *added, *ADDED_BY_THE_SCRAPE}
    metric = METRICS[name]
    assert metric.type != "histogram", f"{name} is scraped in parts only"
    return {*metric.labels, *ADDED_BY_THE_SCRAPE, *({"quantile"} if metric.type == "summary" else ())}


@ALL
def test_queries_are_about_catalogued_metrics(query):
    """Each selector names a metric of the catalogue, labels that it has, and values that these can take."""
    selectors = [node for node in parsed(query.expression) if isinstance(node, promql_parser.VectorSelector)]
    assert selectors
    for selector in selectors:
        labels = labels_of(selector.name)
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels
            if matcher.name in KNOWN_VALUES:
                assert set(matcher.value.split("|")) <= set(KNOWN_VALUES[matcher.name])


@ALL
def test_aggregations_keep_labels_that_are_there(query):
    """And a legend speaks only of labels that the result has."""
    everything = parsed(query.expression)
    available = set().union(
        *(labels_of(node.name) for node in everything if isinstance(node, promql_parser.VectorSelector))
    )
    kept: set[str] = set()
    for node in everything:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= available
            kept |= set(node.modifier.labels)
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= kept


def test_a_query_that_is_none_does_not_pass():
    """The parser refuses it, and so does filling in a variable that nobody knows."""
    with pytest.raises(ValueError, match="unexpected end"):
        parsed("sum(up{")
    with pytest.raises(AssertionError, match="nobody fills in"):
        parsed("up[$interval]")
    with pytest.raises(KeyError):
        labels_of("stallwatch_nothing")
