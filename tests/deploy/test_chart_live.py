"""The detector, started with the chart's own command line and environment, answers the chart's probes and its test pod."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.chart import containers, render, the
from support.service import Service

pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")


class RenderedService(Service):
    """What the container runs; only ports and folder are the test's own."""

    def __init__(self, directory, values):
        objects = render(values)
        (container,) = [c for c in containers(the(objects, "StatefulSet")) if c["name"] == "detector"]
        environment = dict(the(objects, "ConfigMap")["data"])
        environment |= {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        super().__init__(directory, environment=environment)
        self.container = container

    def command(self):
        """The rendered arguments; of two the last one counts."""
        own = ["--grpc-port=0", "--http-port=0", f"--data-dir={self.directory}", "--host=127.0.0.1"]
        return [sys.executable, "-m", "stallwatch.detector", *self.container["args"], *own]


@pytest.mark.timeout(150)
def test_the_rendered_detector_is_live_ready_and_passes_helm_test(tmp_path):
    """Probes get 200 while it runs; the test pod's program exits with 0, and with another code when nothing is there."""
    (test,) = [c for item in render({}) if item["kind"] == "Pod" for c in containers(item)]
    program = test["args"][0]

    def helm_test(service):
        command = [sys.executable, "-c", program, service.grpc_address, service.url]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    with RenderedService(tmp_path, {"settings": {"maxRuns": 3}}) as service:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert service.fetch(service.container[probe]["httpGet"]["path"])[0] == 200
        passed = helm_test(service)
        assert passed.returncode == 0, passed.stderr
        assert passed.stdout.split() == ["ok", "SERVING"]
    assert helm_test(service).returncode != 0
