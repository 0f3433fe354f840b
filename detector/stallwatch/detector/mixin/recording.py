"""Recording rules: what alerts and dashboards ask for again and again."""

from __future__ import annotations

from collections.abc import Iterator

from stallwatch.detector.http.catalogue import METRICS
from stallwatch.detector.mixin.shape import Group, Recording

_PLACE = "instance, pod, container, endpoint"
"""Target labels that change when the detector moves: an alert must not become another one by that."""
ALERTING = "run_kind:stallwatch_finding_active:max"
LOST_STEPS = "run:stallwatch_agent_dropped:increase10m"
REJECTED = "job:stallwatch_ingest_rejected:increase10m"
FAILURES = "job:stallwatch_analyzer_failures:increase10m"
UNSENT = "job:stallwatch_alertmanager_errors:increase15m"
GIVEN_UP = "job:stallwatch_webhook_dead_letters:increase15m"


def recording_group() -> Group:
    """All of them."""
    return Group("stallwatch.recording", list(_recordings()))


def metric(name: str) -> str:
    """A name from the catalogue: a rule about a metric that is not there is an error here already."""
    assert name in METRICS, name
    return name


def _recordings() -> Iterator[Recording]:
    active, silenced = metric("stallwatch_finding_active"), metric("stallwatch_finding_silenced")
    # Both have the same labels, so a silenced finding is taken out by itself.
    yield Recording(ALERTING, f"max without ({_PLACE}) ({active} unless {silenced})")
    yield Recording(LOST_STEPS, _growth("stallwatch_agent_dropped_total", "10m", "reason"))
    yield Recording(REJECTED, _growth("stallwatch_ingest_rejected_total", "10m", "payload"))
    yield Recording(
        FAILURES,
        f"{_growth('stallwatch_analyzer_failures_total', '10m')} + "
        f"{_growth('stallwatch_analyzer_snapshot_failures_total', '10m')}",
    )
    # Series of receivers exist only where receivers are configured.
    yield Recording(UNSENT, _growth("stallwatch_alertmanager_errors_total", "15m", "receiver"))
    yield Recording(GIVEN_UP, _growth("stallwatch_webhook_dead_letters_total", "15m", "receiver"))
    yield Recording(
        "run:stallwatch_ingest_run_steps:rate5m",
        f"sum without ({_PLACE}) (rate({metric('stallwatch_ingest_run_steps_total')}[5m]))",
    )
    seconds = metric("stallwatch_step_seconds")
    yield Recording(
        "run_phase:stallwatch_step_seconds:mean5m",
        f"sum without ({_PLACE}) (rate({seconds}_sum[5m])) / sum without ({_PLACE}) (rate({seconds}_count[5m]))",
    )
    yield Recording(
        "run_kind:stallwatch_stalled_gpu_seconds:rate5m",
        f"sum without ({_PLACE}) (rate({metric('stallwatch_stalled_gpu_seconds_total')}[5m]))",
    )


def _growth(name: str, window: str, *without: str) -> str:
    return f"sum without ({', '.join((_PLACE, *without))}) (increase({metric(name)}[{window}]))"
