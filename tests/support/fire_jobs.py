"""Starts the jobs of `fire_job` and listens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

JOB = Path(__file__).with_name("fire_job.py")


class Starter:
    """The process that has imported torch, and forks jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, str(JOB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(30)

    def start(self, fault: str, kind: str = "plain", endpoint: str = "", **environment: str) -> FireJob:
        """Begin a training; without an endpoint, one without the agent."""
        self._count += 1
        stem = self.folder / f"{self._count}-{fault}"
        paths = {name: f"{stem}.{name}" for name in ("input", "output", "errors")}
        os.mkfifo(paths["input"])
        os.mkfifo(paths["output"])
        order = {"fault": fault, "kind": kind, "endpoint": endpoint, "environment": environment, **paths}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = json.loads(self._process.stdout.readline())["pid"]
        return FireJob(pid, paths)


class FireJob:
    """One process."""

    def __init__(self, pid: int, paths: dict[str, str]) -> None:
        self.pid = pid
        self._errors = Path(paths["errors"])
        self._code = Path(paths["errors"] + ".code")
        # Each opens when the job opens the other end, in this order.
        self._input = Path(paths["input"]).open("w")  # noqa: SIM115 -- closed at the end of the block
        self._output = Path(paths["output"]).open()  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._code.exists():
            os.kill(self.pid, signal.SIGKILL)
        self._input.close()
        self._output.close()

    def hears(self) -> dict[str, Any]:
        """The next line it says."""
        line = self._output.readline()
        assert line, self._errors.read_text()[-4000:]
        said: dict[str, Any] = json.loads(line)
        return said

    def go_on(self) -> None:
        """Say that the fault has been done."""
        self._input.write("\n")
        self._input.flush()

    def end(self, code: int = 0, seconds: float = 60.0) -> str:
        """Wait for its end; return what it said on standard error."""
        ended = int(
            wait_until("the job's end", lambda: self._code.exists() and self._code.read_text(), seconds)
        )
        errors = self._errors.read_text()
        assert ended == code, (ended, errors[-4000:])
        return errors
