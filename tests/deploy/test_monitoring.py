"""The examples for Prometheus and Alertmanager, checked with their own tools."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_what_is_generated_is_up_to_date():
    """The committed rules are those of the code."""
    command = [sys.executable, str(ROOT / "scripts/generate-deploy"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)
def test_promtool_takes_the_example_for_prometheus():
    """With the rules that it names."""
    command = ["promtool", "check", "config", str(ROOT / "deploy/prometheus/prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stallwatch.rules.yaml" in done.stdout


@pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool is not installed: apt-get install prometheus-alertmanager"
)
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=TrainingHang severity=critical run=a", "on-call"),
        ("alertname=TrainingPlateau severity=warning run=a", "team"),
        ("alertname=TrainingSlowConvergence severity=info run=a", "nobody"),
        ("alertname=StallwatchDown severity=critical", "on-call"),
    ],
)
def test_alertmanager_takes_its_example_and_routes_by_severity(labels, receiver):
    """Critical ones wake somebody, information wakes nobody."""
    config = str(ROOT / "deploy/alertmanager/alertmanager.yml")
    checked = subprocess.run(["amtool", "check-config", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    command = ["amtool", "config", "routes", "test", f"--config.file={config}", *labels.split()]
    routed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert routed.stdout.strip() == receiver
