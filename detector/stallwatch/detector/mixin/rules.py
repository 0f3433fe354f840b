"""The rule file."""

from __future__ import annotations

from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.mixin.findings import findings_group
from stallwatch.detector.mixin.meta import meta_group
from stallwatch.detector.mixin.recording import recording_group
from stallwatch.detector.mixin.shape import Group, rule_file

HEADING = (
    "Written by `stallwatch rules`, from the vocabulary of findings and the catalogue of metrics: do not edit.\n"
    "`stallwatch rules --external-url URL --grafana-url URL` writes it with your own addresses. Needs Prometheus 2.42."
)


def rule_groups(links: Links, pending: str | None = None, keep: str | None = None) -> list[Group]:
    """Every group, recording rules first; `pending` and `keep` go before the durations of all alerts."""
    return [recording_group(), findings_group(links, pending, keep), meta_group(links, pending, keep)]


def rules_yaml(links: Links, pending: str | None = None, keep: str | None = None) -> str:
    """The rules as Prometheus reads them."""
    return rule_file(rule_groups(links, pending, keep), heading=HEADING)
