"""PromQL in the scope of a dashboard's variables, with names and labels that the catalogue has."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.core.views import RUN_STATES
from stallwatch.detector.http.catalogue import METRICS

TARGET_MATCHERS = ('namespace=~"$namespace"', 'job=~"$job"')
"""Of the labels that the scrape adds. `All` stands for `.*`, which a series without the label matches too."""
RUN = ("namespace", "run")
"""What tells one run from another: two teams of one cluster may use the same name."""
SEVERITIES = ("info", "warning", "critical")
_PARTS = {
    "histogram": {"_bucket": ("le",), "_sum": (), "_count": ()},
    "summary": {"": ("quantile",), "_sum": (), "_count": ()},
}


@dataclass(frozen=True, slots=True)
class Scope:
    """The series that a dashboard speaks of."""

    run_matcher: str
    """As PromQL: one run, or those that are chosen."""

    def select(self, name: str, **wanted: str | tuple[str, ...]) -> str:
        """A vector selector; a tuple means any of these values."""
        labels = series_labels(name)
        unknown = set(wanted) - set(labels)
        if unknown:
            raise KeyError(f"{name} has the labels {labels}, not {sorted(unknown)}")
        matchers = [*TARGET_MATCHERS, *([self.run_matcher] if "run" in labels else [])]
        for label, value in wanted.items():
            matchers.append(
                f'{label}=~"{"|".join(value)}"' if isinstance(value, tuple) else f'{label}="{value}"'
            )
        return f"{name}{{{', '.join(matchers)}}}"

    def latest(self, name: str, *by: str, **wanted: str | tuple[str, ...]) -> str:
        """A gauge or a total of each run.

        The maximum is for the minutes after the detector has moved to another pod: the same run is then there twice.
        """
        return by_run("max", self.select(name, **wanted), *by)

    def rate(self, name: str, **wanted: str | tuple[str, ...]) -> str:
        """Increase of a counter a second."""
        return f"rate({self.select(name, **wanted)}[$__rate_interval])"

    def state(self) -> str:
        """The state of each run as its number in `RUN_STATES`, which panels map to its name."""
        numbers = (
            f"{number} * ({self.select('stallwatch_run_state', state=state)} == 1)"
            for number, state in enumerate(RUN_STATES)
        )
        return by_run("max", " or ".join(numbers))

    def severity(self) -> str:
        """1, 2 or 3 for each kind of finding that is firing in a run, by its severity."""
        numbers = (
            f"{number} * {self.select('stallwatch_finding_active', severity=severity)}"
            for number, severity in enumerate(SEVERITIES, 1)
        )
        return by_run("max", " or ".join(numbers), "kind")


def by_run(operator: str, expression: str, *labels: str) -> str:
    """An aggregation that keeps runs apart."""
    return f"{operator} by ({', '.join((*RUN, *labels))}) ({expression})"


def series_labels(name: str) -> tuple[str, ...]:
    """Labels of a series as it is scraped: a part of a histogram or summary has its own. Raises KeyError."""
    metric = METRICS.get(name)
    if metric is not None and metric.type != "histogram":
        return (*metric.labels, *_PARTS.get(metric.type, {}).get("", ()))
    for suffix in ("_bucket", "_sum", "_count"):
        base = METRICS.get(name.removesuffix(suffix))
        if base is not None and name.endswith(suffix) and suffix in _PARTS.get(base.type, {}):
            return (*base.labels, *_PARTS[base.type][suffix])
    raise KeyError(f"no metric of the catalogue is scraped as {name}")
