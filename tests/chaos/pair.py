"""Two jobs that train the same at the same time, one watched and one not: whatever else the machine does, it does to both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.job import PROGRESS
from faults.ranks import Process, Zygote, environment
from support.job import end_torchrun
from support.waiting import wait_until

RANKS = 2
SCRIPT = Path(__file__).with_name("job.py")


@dataclass
class TrainingJob:
    """The processes of one job, and what they have written so far."""

    folder: Path
    order: dict[str, Any]
    log_folder: Path
    processes: list[Process] = field(default_factory=list)
    launcher: subprocess.Popen[bytes] | None = None

    def start(self, zygote: Zygote, *, torchrun: bool) -> None:
        """Start all ranks; once more after an end goes on from the checkpoint."""
        if not torchrun:
            for rank in range(RANKS):
                variables = {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(RANKS),
                    "LOCAL_WORLD_SIZE": str(RANKS),
                    "TORCHELASTIC_RESTART_COUNT": "0",
                    "TORCHELASTIC_RUN_ID": self.folder.name,
                    **self.order["environment"],
                }
                name = f"{self.folder}/{self.order['launch']}/{rank}"
                log = self.log_folder / f"rank-{rank}.log"
                self.processes.append(zygote.start(name, log, variables, self.order))
            return
        order = self.folder / f"order-{self.order['launch']}.json"
        order.write_text(json.dumps(self.order))
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(RANKS),
        ]
        command += ["--max-restarts", "2", "--monitor-interval", "0.2", str(SCRIPT), str(order)]
        with (self.log_folder / "torchrun.log").open("ab") as log:
            self.launcher = subprocess.Popen(
                command,
                # gloo leaves addresses in the store it meets in: ranks of the next attempt would read those of the last (torch 2.13).
                env={**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def codes(self) -> list[int | None]:
        """Exit codes: of the ranks, or of torchrun; None for what still runs."""
        if self.launcher is not None:
            return [self.launcher.poll()]
        return [process.code for process in self.processes]

    def progress(self) -> list[int]:
        """The step that each rank is at; -1 before its first."""
        found = []
        for rank in range(RANKS):
            path = self.folder / f"progress-{rank}"
            data = path.read_bytes() if path.exists() else b""
            found.append(PROGRESS.unpack(data)[1] if len(data) == PROGRESS.size else -1)
        return found

    def mark(self, name: str, step: int) -> None:
        """Tell the ranks a step, whole or not at all."""
        part = self.folder / f"{name}.part"
        part.write_text(str(step))
        part.replace(self.folder / name)

    def notes(self, name: str) -> dict[int, Any]:
        """What ranks noted, by rank."""
        return {
            int(path.stem.rpartition("-")[2]): json.loads(path.read_text())
            for path in self.folder.glob(f"{name}-[0-9]*.json")
        }

    def steps(self) -> dict[tuple[int, int], dict[int, tuple[str, float]]]:
        """What each attempt and rank did: the loss, bit for bit, and the seconds of every step."""
        found = {}
        for path in self.folder.glob("steps-*.txt"):
            _, attempt, rank = path.stem.split("-")
            lines = [line.split() for line in path.read_text().splitlines()]
            found[int(attempt), int(rank)] = {
                int(line[0]): (line[1], float(line[2])) for line in lines if len(line) == 3
            }
        return found

    def signal_ranks(self, number: int, ranks: tuple[int, ...]) -> None:
        """Send a signal to forked ranks."""
        for rank in ranks:
            os.kill(self.processes[rank].pid, number)

    def log(self) -> str:
        """The end of what it printed."""
        texts = [path.read_text(errors="replace")[-3000:] for path in sorted(self.log_folder.glob("*.log"))]
        return "\n".join(texts)

    def end(self) -> None:
        """End it, however it stands."""
        if self.launcher is not None and self.launcher.poll() is None:
            end_torchrun(self.launcher)
        for process in self.processes:
            if process.code is None and process.pid:
                os.kill(process.pid, signal.SIGKILL)
        if self.processes:
            wait_until("the ranks have ended", lambda: None not in self.codes())
