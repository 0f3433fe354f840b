"""Fresh metric families of catalogued names, for one scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from stallwatch.detector.core.views import EXPOSED_BUCKETS, STEP_SECONDS_BUCKETS, PhaseHistogram
from stallwatch.detector.http.catalogue import METRICS

_EXPOSED = [*((str(bound), STEP_SECONDS_BUCKETS.index(bound)) for bound in EXPOSED_BUCKETS), ("+Inf", -1)]
"""Bounds that are shown, and where their counts stand."""


class Families:
    """Collects samples by metric name; a name that is not in the catalogue is an error."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """One sample of a gauge or counter; None is no sample."""
        family = self._family(name)
        if value is not None:
            family.add_metric(labels, float(value))  # type: ignore[attr-defined]

    def add_histogram(self, name: str, histogram: PhaseHistogram, *labels: str) -> None:
        """A whole histogram."""
        below = list(accumulate(map(float, histogram.counts)))
        buckets = [(bound, below[index]) for bound, index in _EXPOSED]
        self._family(name).add_metric(labels, buckets, sum_value=histogram.total_seconds)  # type: ignore[attr-defined]

    def add_summary(self, name: str, quantiles: Mapping[float, float], *labels: str) -> None:
        """Quantiles alone: sum and count of what they are of stand elsewhere."""
        family = self._family(name)
        names: Sequence[str] = METRICS[name].labels
        pairs = dict(zip(names, labels, strict=True))
        for quantile, value in sorted(quantiles.items()):
            family.add_sample(name, {**pairs, "quantile": str(quantile)}, value)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())

    def _family(self, name: str) -> Family:
        if name not in self._families:
            metric = METRICS[name]
            kinds = {
                "gauge": GaugeMetricFamily,
                "counter": CounterMetricFamily,
                "histogram": HistogramMetricFamily,
                "summary": SummaryMetricFamily,
            }
            self._families[name] = kinds[metric.type](name, metric.help, labels=metric.labels)
        return self._families[name]
