"""Starts the service and the training job as a user would, and takes both down again whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stallwatch.detector.demo.acts import RANKS, RUN, job_arguments

START_SECONDS = 90.0
"""Ray takes a few seconds, on a busy machine a few more."""
STOP_SECONDS = 30.0


class DemoError(RuntimeError):
    """The demo could not be played: the service or the job did not start, or ended early."""


def wait_for(what: str, ready: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """Poll `ready` until it gives something, the process ends, or the time is up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (result := ready()) is not None:
            return result
        if process.poll() is not None:
            raise DemoError(f"{what} ended with exit code {process.returncode}; its log is {log}")
        time.sleep(0.1)
    raise DemoError(f"{what} was not ready within {START_SECONDS:.0f} s; its log is {log}")


def _addresses(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def _environment() -> dict[str, str]:
    """Without settings of the user's own detector and jobs, such as its certificate and tokens."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STALLWATCH_")}


@contextmanager
def service(directory: Path, *, keep: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """A `stallwatch serve` with its data in `directory`; yields its service.json. Left running when `keep()` says so."""
    log = directory / "service.log"
    command = [sys.executable, "-m", "stallwatch.detector", "serve", "--data-dir", str(directory)]
    command += ["--grpc-port", "0", "--http-port", "0"]
    environment = {name: value for name, value in _environment().items() if name != "RAY_ADDRESS"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield wait_for("the service", lambda: _addresses(directory / "service.json"), process, log)
    finally:
        if not keep():
            stop(process)


@contextmanager
def job(directory: Path, grpc_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The training job, four gloo ranks under torchrun; yields its process."""
    log = directory / "training.log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command += ["-m", "stallwatch.agent.demo", *job_arguments(), "--stop-file", str(directory / "stop")]
    environment = {
        **_environment(),
        "STALLWATCH_ENDPOINT": f"127.0.0.1:{grpc_port}",
        "STALLWATCH_RUN": RUN,
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process group to end, and make it end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
