"""A real Prometheus scrapes the real service."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request

import pytest

from support.rank import steps
from support.waiting import wait_until


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def query(service, tmp_path):
    """Ask a Prometheus that scrapes the service each second; returns labels and value of each series."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    port = free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: stallwatch\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{service.http_port}']}}]\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(expression: str) -> list[tuple[dict[str, str], float]]:
        address = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            return []
        return [(one["metric"], float(one["value"][1])) for one in result]

    yield ask
    process.terminate()
    process.wait(20)


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
