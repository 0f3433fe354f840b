"""Starts the rank processes of jobs, and ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.scenario import Case
from support.reserved import reserve_port
from support.waiting import wait_until

TESTS = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0


@dataclass
class Process:
    """One rank process, as the zygote tells of it."""

    pid: int = 0
    code: int | None = None
    """Exit code; None while it runs."""


class Zygote:
    """See `faults.zygote`."""

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Zygote:
        assert self._ready.wait(START_SECONDS), "the zygote has not started"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(START_SECONDS)

    def start(self, name: str, log: Path, variables: dict[str, str], order: dict[str, Any]) -> Process:
        """Fork one rank process."""
        process = self._processes[name] = Process()
        line = json.dumps({"id": name, "log": str(log), "environment": variables, "order": order})
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        wait_until(f"{name} runs", lambda: process.pid)
        return process

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self._ready.set()
                continue
            process = self._processes[message["id"]]
            process.pid = message.get("pid", process.pid)
            process.code = message.get("code", process.code)


def environment() -> dict[str, str]:
    """What every process of a job starts with."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


@dataclass
class Ranks:
    """The processes of one attempt of a case."""

    zygote: Zygote
    case: Case
    folder: Path
    order: dict[str, Any]
    attempt: int = 0
    processes: list[Process] = field(default_factory=list)

    def start(self) -> None:
        """Start all ranks."""
        world = self.case.worlds[self.attempt]
        for rank in range(world):
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "TORCHELASTIC_RESTART_COUNT": str(self.attempt),
                "TORCHELASTIC_RUN_ID": self.case.run.replace("/", "-"),
            }
            name = f"{self.folder.name}/{self.attempt}/{rank}"
            log = self.folder / f"rank-{self.attempt}-{rank}.log"
            self.processes.append(self.zygote.start(name, log, variables, self.order))

    def codes(self) -> list[int | None]:
        """Exit code of each rank; None while it runs."""
        return [process.code for process in self.processes]

    def kill(self) -> None:
        """End those that still run, and wait for it."""
        for process in self.processes:
            if process.code is None:
                os.kill(process.pid, signal.SIGKILL)
        wait_until("the ranks have ended", lambda: None not in self.codes())


@dataclass
class Torchrun:
    """The processes of a case that torchrun starts and restarts, one torchrun a node."""

    case: Case
    folder: Path
    order: dict[str, Any]
    attempt: int = 0
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start all nodes; the first one is where they meet, and outlives the others."""
        order = self.folder / "order.json"
        order.write_text(json.dumps(self.order))
        count, port = self.case.scenario.nodes, reserve_port()
        # gloo leaves addresses in the store it meets in: with torchrun's own store, ranks of the next attempt would read
        # those of the last (torch 2.13), so every attempt gets a store of its own.
        variables = {**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes",
            f"1:{count}",
            "--max-restarts",
            "3",
        ]
        command += ["--nproc-per-node", str(self.case.ranks // count), "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", self.folder.name]
        # Without a timeout of our own, the first node waits half a minute for more to come, at every restart.
        for node in range(count):
            meets = ["--rdzv-conf", f"last_call_timeout=2,is_host={int(node == 0)}"]
            with (self.folder / f"rank-{self.attempt}-{node}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*command, *meets, "-m", "faults.job", str(order)],
                    stdout=log,
                    stderr=log,
                    env=variables,
                    start_new_session=True,
                )
            self.nodes.append(process)

    def codes(self) -> list[int | None]:
        """Exit code of the first node, on which it depends."""
        return [self.nodes[0].poll()]

    def kill(self) -> None:
        """End those that still run; asked, they end their ranks."""
        for node in self.nodes:
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            node.wait(START_SECONDS)
