"""The parts of a rule file, and their YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from stallwatch.detector.errors import UsageError

_DURATION = re.compile(r"(\d+(ms|[smhdwy]))+\Z")
_LINE = 10_000
"""Annotations stay on one line: a reader compares them, and nothing folds a template."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule."""

    record: str
    """Level, metric and operations: `level:metric:operations`."""
    expr: str

    def document(self) -> dict[str, Any]:
        """As in a rule file."""
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule."""

    alert: str
    expr: str
    pending: str
    """`for`: how long the expression must hold."""
    keep: str
    """`keep_firing_for`: how long it goes on when the expression holds no more."""
    severity: str
    summary: str
    description: str
    runbook_url: str
    dashboard_url: str

    def document(self) -> dict[str, Any]:
        """As in a rule file."""
        return {
            "alert": self.alert,
            "expr": self.expr,
            "for": self.pending,
            "keep_firing_for": self.keep,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": self.runbook_url,
                "dashboard_url": self.dashboard_url,
            },
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after another."""

    name: str
    rules: Sequence[Recording | Alert]

    def document(self) -> dict[str, Any]:
        """As in a rule file."""
        return {"name": self.name, "rules": [rule.document() for rule in self.rules]}


def rule_file(groups: Sequence[Group], *, heading: str) -> str:
    """A rule file, with a comment above it."""
    body = yaml.safe_dump(
        {"groups": [group.document() for group in groups]}, sort_keys=False, width=_LINE, allow_unicode=True
    )
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + body


def check_duration(text: str, option: str) -> str:
    """A duration as Prometheus writes it."""
    if not _DURATION.match(text):
        raise UsageError(f"{option} {text!r} is no duration: write it like 30s, 5m or 1h")
    return text
