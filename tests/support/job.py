"""Runs the demo's training job as a user would: torchrun, gloo, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

END_SECONDS = 45.0
"""torchrun gives ranks 30 s."""


class Job:
    """A torchrun job of `python -m stallwatch.agent.demo`, with its log and step timings in `folder`."""

    def __init__(
        self, folder: Path, *arguments: str, ranks: int, run: str, endpoint: str | None, **environment: str
    ) -> None:
        self.folder = folder
        self.ranks = ranks
        self.log = folder / f"{run}.log"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(ranks),
        ]
        command += ["-m", "stallwatch.agent.demo", "--timings", str(folder / run), *arguments]
        self.timings = folder / run
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "STALLWATCH_RUN": run, **environment}
        if endpoint is not None:
            variables["STALLWATCH_ENDPOINT"] = endpoint
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env=variables, start_new_session=True
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            end_torchrun(self.process)

    def wait(self, seconds: float) -> None:
        """Wait for the job to end well."""
        code = self.process.wait(seconds)
        assert code == 0, self.log.read_text()[-4000:]

    def step_ends(self) -> dict[int, list[float]]:
        """Unix seconds at the end of every step, by rank."""
        return {
            rank: json.loads((self.timings / f"rank-{rank}.json").read_text()) for rank in range(self.ranks)
        }


def end_torchrun(process: subprocess.Popen[bytes]) -> None:
    """End a job with all its ranks: they have sessions of their own, and only torchrun knows them."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
