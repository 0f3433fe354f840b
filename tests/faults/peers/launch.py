"""Starts a job under a tool's own launcher, and ends it for certain."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.ranks import TESTS
from faults.scenario import Case

ROOT = TESTS.parent
SCRIPT = Path(__file__).with_name("train.py")
END_SECONDS = 30.0
_MARK = "FAULTS_PEERS_JOB"


@dataclass(slots=True)
class Ended:
    """How a command ended."""

    exit_code: int | None
    """None: it was ended when its time was up."""
    output: str
    seconds: float


@dataclass(slots=True)
class Launch:
    """One case under one tool."""

    tool: str
    case: Case
    folder: Path
    environment: Path | None
    """The tool's virtual environment; None: the one that runs this."""
    shorter: dict[str, Any] = field(default_factory=dict)
    """Fields of the scenario that are replaced, to make its job shorter."""

    def write_order(self) -> Path:
        """The job's order, for `train.py`."""
        path = self.folder / "order.json"
        case = self.case
        order: dict[str, Any] = {
            "tool": self.tool,
            "scenario": case.scenario.name,
            "seed": case.seed,
            "ranks": case.ranks,
            "shorter": self.shorter,
            "folder": str(self.folder),
        }
        path.write_text(json.dumps(order))
        return path

    def program(self, name: str) -> str:
        """The path of a command of the tool's environment."""
        folder = Path(sys.executable).parent if self.environment is None else self.environment / "bin"
        return str(folder / name)

    def run(self, command: Sequence[str], *, seconds: float, variables: Mapping[str, str] | None = None) -> Ended:  # fmt: skip
        """Run a command to its end; when its time is up, interrupt it as a person would, then kill it."""
        mark = uuid.uuid4().hex
        environment = {
            **os.environ,
            **(variables or {}),
            _MARK: mark,
            "OMP_NUM_THREADS": "1",
            "FAULTS_PATH": os.pathsep.join(str(ROOT / each) for each in ("tests", "agents", "protos")),
        }
        log = self.folder / f"{Path(command[0]).name}.log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code: int | None = None
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_SECONDS)
            finally:
                _kill_all(mark)
                process.wait()
        return Ended(code, log.read_text(errors="replace"), time.monotonic() - began)


def _kill_all(mark: str) -> None:
    """Launchers start their ranks in sessions of their own: they are found by what they inherited."""
    wanted = f"{_MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
