"""What an alert is called and where it leads: the same for rules in Prometheus and for what is sent directly."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from stallwatch.detector.core.vocabulary import VOCABULARY

DEFAULT_EXTERNAL_URL = "http://localhost:9847"
PREFIX = "Training"


def alert_name(kind: str) -> str:
    """The alert of a kind: `TrainingStaleGradient` of `stale_gradient`."""
    return PREFIX + "".join(word.capitalize() for word in kind.split("_"))


def summary(kind: str) -> str:
    """One sentence that does not change from case to case."""
    return VOCABULARY[kind].says


def description(run: str, reason: str) -> str:
    """What is wrong in this case: the finding's own sentence."""
    return f"Run {run}: {reason}"


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses for people. Each method takes a run's name as it is; the `quoted_` ones take it quoted already."""

    external_url: str = DEFAULT_EXTERNAL_URL
    grafana_url: str | None = None

    def __post_init__(self) -> None:
        """Trailing slashes are no part of an address."""
        object.__setattr__(self, "external_url", self.external_url.rstrip("/"))
        object.__setattr__(self, "grafana_url", self.grafana_url.rstrip("/") if self.grafana_url else None)

    def runbook(self, page: str) -> str:
        """The page about a kind of finding, or about an alert on Stallwatch itself."""
        return f"{self.external_url}/runbooks/{page}"

    def run(self, run: str) -> str:
        """A run's page."""
        return self.quoted_run(quoted(run))

    def finding(self, run: str, identity: str) -> str:
        """A finding's page."""
        return f"{self.run(run)}/findings/{quoted(identity)}"

    def dashboard(self, run: str) -> str:
        """Where to look at a run: in Grafana where there is one."""
        return self.quoted_dashboard(quoted(run))

    def quoted_run(self, run: str) -> str:
        """`run`, of a quoted name."""
        return f"{self.external_url}/runs/{run}"

    def quoted_dashboard(self, run: str) -> str:
        """`dashboard`, of a quoted name."""
        if self.grafana_url is None:
            return self.quoted_run(run)
        return f"{self.grafana_url}/d/stallwatch-run?var-run={run}"

    def overview(self) -> str:
        """Where to look at all runs."""
        return (
            self.external_url + "/"
            if self.grafana_url is None
            else f"{self.grafana_url}/d/stallwatch-overview"
        )


def quoted(text: str) -> str:
    """Text as a part of a path or a query, in the way of Go's `urlquery`, which the rules use."""
    return quote(text, safe="")
