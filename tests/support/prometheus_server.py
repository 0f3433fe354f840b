"""A real Prometheus in a process of its own, for tests."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.reserved import reserve_port
from support.waiting import wait_until

Series = tuple[dict[str, str], list[float]]
"""Labels, and the values over time; one for an instant query."""


class Prometheus:
    """Scrapes each second, from its start on."""

    def __init__(self, directory: Path, scrape_configs: Sequence[dict[str, Any]]) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{reserve_port()}"
        self.started = time.time()
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": list(scrape_configs)}
        (directory / "prometheus.yml").write_text(json.dumps(config))

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = ["prometheus", f"--config.file={self.directory / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={self.directory / 'data'}"]
        command += [f"--web.listen-address={self.url.removeprefix('http://')}"]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until("Prometheus is ready", self._ready)

    def end(self) -> None:
        """Stop it if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def instant(self, expression: str) -> list[Series]:
        """What a query says now."""
        result = self._get("query", query=expression)["result"]
        return [(one["metric"], [float(one["value"][1])]) for one in result]

    def over_time(self, expression: str, step_seconds: float = 1.0) -> list[Series]:
        """What a query says over the time since the start."""
        result = self._get(
            "query_range", query=expression, start=self.started, end=time.time(), step=step_seconds
        )["result"]
        return [(one["metric"], [float(value) for _at, value in one["values"]]) for one in result]

    def label_values(self, label: str, selector: str) -> list[str]:
        """Values of a label over the series of a selector."""
        return self._get(f"label/{label}/values", **{"match[]": selector})

    def _get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer; a query that Prometheus refuses fails the test with what it says."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
