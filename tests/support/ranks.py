"""Starts rank processes of a scenario and waits for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

SCRIPT = Path(__file__).with_name("ddp_scenarios.py")


class Ranks:
    """Real processes that form one gloo group and run scenarios."""

    def __init__(
        self,
        folder: Path,
        endpoint: str,
        *scenarios: str,
        world_size: int = 2,
        script: Path = SCRIPT,
        **environment: str,
    ) -> None:
        self.folder = folder
        self.scenarios = scenarios
        self._logs = [folder / f"rank-{rank}.log" for rank in range(world_size)]
        self.processes = []
        for rank, log in enumerate(self._logs):
            variables = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "PYTHONWARNINGS": "default",
                **environment,
            }
            with log.open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, str(script), str(folder), endpoint, *scenarios],
                        env=variables,
                        stdout=output,
                        stderr=output,
                    )
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def finish(self, timeout: float = 120.0) -> None:
        """Waits for all ranks to end well."""
        for rank, process in enumerate(self.processes):
            assert process.wait(timeout) == 0, self.log(rank)

    def log(self, rank: int) -> str:
        """What a rank has printed."""
        return self._logs[rank].read_text(errors="replace")

    def result(self, scenario: str, rank: int) -> dict[str, Any]:
        """What a scenario returned on a rank."""
        result: dict[str, Any] = json.loads((self.folder / f"{scenario}-{rank}.json").read_text())
        return result
