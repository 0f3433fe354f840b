"""A real `stallwatch serve` in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.reserved import reserve_port
from support.waiting import wait_until

START_SECONDS = 90.0
STARTS = 5
"""On a busy machine Ray may not start in its time: then a supervisor tries again, and so does this."""
STOP_SECONDS = 40.0


class Service:
    """The detector: start, kill, stop, restart, and ask it things. Ports stay the same over a restart."""

    def __init__(self, directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.arguments = arguments
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.grpc_port = reserve_port()
        self.http_port = reserve_port()
        self.http_scheme = "http"
        self.ca: Path | None = None
        """Authority of its certificate, where it has one."""
        self.token: str | None = None
        """Sent with every request."""
        self.cwd: Path | None = None
        self.log = directory / "service.log"
        self._log_began = 0
        """Where what this start has said begins."""

    def __enter__(self) -> Service:
        """Start."""
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        """Stop, whatever state it is in."""
        self.end()

    def end(self) -> None:
        """Stop it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def grpc_address(self) -> str:
        """Where agents connect to."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        """Where HTTP is served."""
        return f"{self.http_scheme}://127.0.0.1:{self.http_port}"

    def start(self) -> Service:
        """Start it, again if need be, and wait until it listens."""
        for _ in range(STARTS):
            self._start()
            wait_until(
                "the service listens, or ends",
                lambda: self._listens() or self._may_try_again(),
                START_SECONDS,
            )
            if not self._may_try_again():
                break
        assert self._listens()
        return self

    def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "service.json").unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with self.log.open("ab") as log:
            self._log_began = log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(
                [*self.command(), *self.arguments],
                stdout=log,
                stderr=log,
                env=environment | self.environment,
                cwd=self.cwd,
                start_new_session=True,
            )

    def command(self) -> list[str]:
        """The command line, up to the extra arguments."""
        return [
            *(sys.executable, "-m", "stallwatch.detector", "serve"),
            *("--grpc-port", str(self.grpc_port), "--http-port", str(self.http_port)),
            *("--data-dir", str(self.directory)),
        ]

    def clock(self) -> float:
        """Unix seconds."""
        return time.time()

    def kill(self) -> float:
        """End it without warning, as a machine that loses power would; return when, in Unix seconds."""
        assert self.process is not None
        killed = self.clock()
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        return killed

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def restart(self) -> Service:
        """Kill it and start it again with the same data and ports."""
        self.kill()
        return self.start()

    def get(self, path: str) -> Any:
        """The decoded answer of the API; None for 404."""
        status, body = self.fetch(path)
        if status == 404:
            return None
        assert status == 200, (status, body)
        return json.loads(body)

    def fetch(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and body of an answer; status 0 when there was none."""
        own = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.url + path, headers={**own, **(headers or {})})
        tls = ssl.create_default_context(cafile=self.ca) if self.http_scheme == "https" else None
        try:
            with urllib.request.urlopen(request, timeout=20, context=tls) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of one sample of /metrics, found by name and all of the labels given."""
        from prometheus_client.parser import text_string_to_metric_families

        _status, text = self.fetch("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None

    def _may_try_again(self) -> bool:
        """Whether it has ended because Ray was too slow to start."""
        assert self.process is not None
        if self.process.poll() != 1:
            return False
        with self.log.open(encoding="utf-8") as log:
            log.seek(self._log_began)
            return "the embedded Ray has not started" in log.read()

    def _listens(self) -> bool:
        assert self.process is not None
        if self._may_try_again():
            return False
        if self.process.poll() is not None:
            raise AssertionError(f"the service ended: {self.log.read_text()}")
        try:
            addresses = json.loads((self.directory / "service.json").read_text())
        except (OSError, ValueError):
            return False
        self.grpc_port, self.http_port = addresses["grpc_port"], addresses["http_port"]
        self.http_scheme = addresses["http_scheme"]
        return True
