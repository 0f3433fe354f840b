"""A real Prometheus scrapes the real service."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest

from support.monitoring import Prometheus
from support.rank import steps
from support.waiting import wait_until


@pytest.fixture
def query(service, tmp_path):
    """Ask a Prometheus that scrapes the service each second; returns labels and value of each series."""
    with Prometheus(tmp_path / "prometheus", service.http_port) as prometheus:
        yield prometheus.query


@pytest.mark.timeout(120)
def test_prometheus_knows_the_finding(query, attach, run):
    """Its query API answers with the finding's series, and Prometheus has put its own job on it."""
    rank = attach()
    block = steps(0, 20)
    block.loss_sum[15] = math.nan
    rank.send(block)
    expression = f'stallwatch_finding_active{{run="{run}",kind="non_finite"}}'
    ((labels, value),) = wait_until("the finding in Prometheus", lambda: query(expression))
    assert value == 1
    assert (labels["severity"], labels["job"]) == ("critical", "stallwatch")
    assert query(f'stallwatch_run_state{{run="{run}"}} == 1')
    assert query(f'histogram_quantile(0.5, stallwatch_step_seconds_bucket{{run="{run}",phase="forward"}})')
    assert query('up{job="stallwatch"}')[0][1] == 1


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)
def test_promtool_finds_nothing_to_say_about_live_metrics(service, attach):
    """With a run in them."""
    rank = attach()
    rank.send(steps(0, 50))
    wait_until("the steps", lambda: service.metric("stallwatch_step", run=rank.hello.run) == 49)
    _status, text = service.fetch("/metrics")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.timeout(120)
def test_a_finished_run_leaves_no_series_behind(service, attach, run):
    """One lifetime after its end; here that is five seconds."""
    rank = attach()
    block = steps(0, 20)
    block.loss_sum[15] = math.nan
    rank.send(block)
    wait_until("its series", lambda: f'run="{run}"' in service.fetch("/metrics")[1])
    wait_until("its finding", lambda: service.metric("stallwatch_finding_info", run=run))
    rank.finish()
    wait_until("their end", lambda: f'"{run}' not in service.fetch("/metrics")[1], 30)
