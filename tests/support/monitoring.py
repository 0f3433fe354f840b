"""Debian's Prometheus and Alertmanager as processes of a test, and a receiver of webhooks."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.reserved import reserve_port
from support.waiting import wait_until


class _Process:
    """A server in a folder of its own."""

    program = package = ready_path = ""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        if shutil.which(self.program) is None:
            pytest.skip(f"{self.program} is not installed: apt-get install {self.package}")
        folder.mkdir(parents=True, exist_ok=True)
        self.port = reserve_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        self._config = folder / "config.yml"
        self._config.write_text(yaml.safe_dump(config))
        self._folder = folder

    def __enter__(self):
        """Start it, and wait until it is ready."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([self.program, *self.arguments()], stdout=log, stderr=log)
        wait_until(f"{self.program} is ready", self._is_ready, 30)
        return self

    def __exit__(self, *_exception: object) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)

    def arguments(self) -> list[str]:
        """The command line."""
        raise NotImplementedError

    def get(self, path: str) -> Any:
        """Decoded JSON; None when there was no good answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(self.url + self.ready_path, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


class Prometheus(_Process):
    """Scrapes one detector each second."""

    program, package, ready_path = "prometheus", "prometheus", "/-/ready"

    def __init__(
        self,
        folder: Path,
        target_port: int,
        *,
        rules: Path | None = None,
        alertmanager_port: int | None = None,
    ) -> None:
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [
                {"job_name": "stallwatch", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
            ],
        }
        if rules is not None:
            config["rule_files"] = [str(rules)]
        if alertmanager_port is not None:
            targets = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]}]
            config["alerting"] = {"alertmanagers": targets}
        super().__init__(folder, config)

    def arguments(self) -> list[str]:
        """The command line."""
        return [
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series."""
        answer = self.get(f"/api/v1/query?query={urllib.parse.quote(expression)}")
        result = answer["data"]["result"] if answer else []
        return [(one["metric"], float(one["value"][1])) for one in result]

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing ones."""
        answer = self.get("/api/v1/alerts")
        return answer["data"]["alerts"] if answer else []


class Alertmanager(_Process):
    """Sends everything at once to one webhook, or to nobody."""

    program, package, ready_path = "prometheus-alertmanager", "prometheus-alertmanager", "/-/ready"

    def __init__(self, folder: Path, webhook: str | None = None) -> None:
        receiver: dict[str, Any] = {"name": "test"}
        if webhook is not None:
            receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
        route = {
            "receiver": "test",
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "1h",
        }
        super().__init__(folder, {"route": route, "receivers": [receiver]})

    def arguments(self) -> list[str]:
        """The command line."""
        return [
            f"--config.file={self._config}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are active now."""
        return self.get("/api/v2/alerts") or []


class Receiver:
    """A webhook's end: keeps what it gets, and answers as told."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        """Statuses of the next answers; 200 after them."""
        self.answering = threading.Event()
        """Unset: it takes what comes, and answers when this is set again."""
        self.answering.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Take a body."""
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                    receiver.bodies.append(json.loads(body))
                receiver.answering.wait(60)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
