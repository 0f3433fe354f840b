"""Tests for `promtool test rules`: for every alert, what makes it fire, and that it does not before and does no more after.

All series are of one minute. What makes an alert fire holds from `BEGINS` to `ENDS`, and is gone from then on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.mixin.findings import keep_of, pending_of
from stallwatch.detector.mixin.shape import Alert, Group

BEGINS, ENDS = 3, 60
"""Minutes."""
RUN = "team/a.b:1"
QUOTED_RUN = "team%2Fa.b%3A1"
REASON = 'Rank 3 waits 47.6 ms (70.9 %): "{{ $value }}" is no template, <b> no markup.'
TARGET = 'job="stallwatch",instance="a:9847",pod="p-0"'


@dataclass(frozen=True)
class Case:
    """What makes one alert fire, and what it then says."""

    alert: str
    series: tuple[tuple[str, str], ...]
    labels: dict[str, str]
    description: str
    pending: int
    """Minutes, and below."""
    keep: int
    begins: int = BEGINS
    ends: int = ENDS
    """The first minute at which the condition holds no more."""
    at_last: str = ""
    """The description when it holds no more, where that has a number in it."""
    of_run: bool = False
    """Whether its dashboard is that of a run."""


def minutes(duration: str) -> int:
    """A duration of the rules."""
    number, unit = re.fullmatch(r"(\d+)([smh])", duration).groups()
    return int(number) * {"s": 0, "m": 1, "h": 60}[unit]


def lasting(value: int = 1) -> str:
    """A series that is there while the condition holds."""
    return f"_x{BEGINS} {value}x{ENDS - BEGINS - 1} stale"


def growing(each: int = 10) -> str:
    """A counter that grows while the condition holds, and stays."""
    last = each * (ENDS - BEGINS)
    return f"0x{BEGINS - 1} 0+{each}x{ENDS - BEGINS} {last}x60"


def finding_case(kind: str, severity: str | None = None) -> Case:
    """Of a kind of finding."""
    word = VOCABULARY[kind]
    severity = severity or word.severity.value
    labels = f'run="{RUN}",kind="{kind}",severity="{severity}",{TARGET}'
    reason = REASON.replace('"', '\\"')
    return Case(
        alert="Training" + "".join(part.capitalize() for part in kind.split("_")),
        series=(
            (f"stallwatch_finding_active{{{labels}}}", lasting()),
            (f'stallwatch_finding_info{{{labels},id="{RUN}#{kind}#1",reason="{reason}"}}', lasting()),
        ),
        labels={"run": RUN, "kind": kind, "severity": severity, "job": "stallwatch"},
        description=f"Run {RUN}: {REASON}",
        pending=minutes(pending_of(word)),
        keep=minutes(keep_of(word)),
        of_run=True,
    )


def promtool_test(case: Case, rule: Alert, links: Links) -> dict[str, Any]:
    """One unit test of promtool: not yet, fires, still fires, resolved."""
    fires, resolved = case.begins + case.pending, case.ends + case.keep
    expected = {fires - 1: "", fires: case.description, resolved: ""}
    if case.keep:
        expected[resolved - 1] = case.at_last or case.description
    annotations = {
        "summary": rule.summary,
        "runbook_url": links.runbook(case.labels.get("kind", case.alert)),
        "dashboard_url": links.quoted_dashboard(QUOTED_RUN) if case.of_run else links.overview(),
    }

    def alerts(description: str) -> list[dict[str, Any]]:
        said = {"exp_labels": case.labels, "exp_annotations": {**annotations, "description": description}}
        return [said] if description else []

    return {
        "name": case.alert,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": alerts(description)}
            for minute, description in sorted(expected.items())
        ],
    }


def promtool_file(tests: list[dict[str, Any]], rules: str, groups: list[Group]) -> dict[str, Any]:
    """A whole test file."""
    return {
        "rule_files": [rules],
        "evaluation_interval": "1m",
        "group_eval_order": [group.name for group in groups],
        "tests": tests,
    }
