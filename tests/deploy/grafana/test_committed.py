"""What is committed is what the code makes, and provisioning finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.grafana import BOARDS

ROOT = Path(__file__).resolve().parents[3]
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def test_regeneration_is_clean():
    """`scripts/generate-deploy --check` has nothing to say, and exactly the dashboards are there."""
    command = [sys.executable, str(ROOT / "scripts" / "generate-deploy"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for folder in ("deploy/grafana/dashboards", "helm/stallwatch/files/dashboards"):
        kept = {path.stem: json.loads(path.read_text()) for path in (ROOT / folder).glob("*.json")}
        assert kept == BOARDS


def test_provisioned_data_source_and_folder():
    """The data source has the interval that rates depend on; the dashboards' folder allows no edits that would be lost."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "stallwatch.yaml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "$PROMETHEUS_URL", True)
    assert source["jsonData"]["timeInterval"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "stallwatch.yaml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)


@pytest.mark.parametrize("board", BOARDS)
def test_a_dashboard_fits_into_a_config_map(board):
    """Together they stay far below the megabyte that Kubernetes takes."""
    assert len(json.dumps(BOARDS[board])) < 200_000
