"""Elastic jobs: torchrun restarts its workers, and comes back with another world; it stays one run, with its history."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import support.elastic_job
from support.service import Service
from support.waiting import wait_until

RUN = "elastic"
SCRIPT = Path(support.elastic_job.__file__)


def torchrun(folder: Path, endpoint: str, ranks: int, *arguments: str) -> str:
    """Run the job to its end; return what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", "2", "--monitor-interval", "0.2", str(SCRIPT), str(folder), *arguments]
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "STALLWATCH_RUN": RUN,
            "STALLWATCH_ENDPOINT": endpoint,
            # The launcher's own store keeps the addresses of the attempt before, without a prefix: a restarted rank that reads
            # before its peer has written connects to a dead process (torch 2.13, half of the restarts on a busy machine).
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def tell_when_seen(service: Service, folder: Path) -> None:
    """Let the rank of the first attempt die once the detector has steps of both."""
    path = f"/api/v1/runs/{RUN}/ranks"
    wait_until("the first attempt", lambda: _both_have_steps(service.get(path)), seconds=100)
    (folder / "seen").touch()


def _both_have_steps(answer: dict[str, Any] | None) -> bool:
    return answer is not None and [each["steps_received"] > 0 for each in answer["ranks"]] == [True, True]


@pytest.mark.timeout(240)
def test_restarts_and_another_world_size_are_one_run(tmp_path):
    """A rank dies once and torchrun restarts all; later the job goes on with three ranks: no step lost, and nothing to find."""
    with Service(tmp_path / "data") as service:
        seen = threading.Thread(target=tell_when_seen, args=(service, tmp_path))
        seen.start()
        torchrun(tmp_path, service.grpc_address, 2, "150", "70")
        seen.join()
        # The first attempt has said goodbye as well: finished is the second one at its last step.
        wait_until("the second attempt's end", lambda: (run_of(service) or {}).get("step") == 149)
        wait_until("the second attempt's end", lambda: run_of(service)["state"] == "finished")
        ranks = service.get(f"/api/v1/runs/{RUN}/ranks")["ranks"]
        assert [each["attempt"] for each in ranks] == [1, 1]
        assert [each["steps_received"] for each in ranks] == [150 - 60] * 2
        assert [each["steps_missing"] for each in ranks] == [0, 0]

        torchrun(tmp_path, service.grpc_address, 3, "220")
        wait_until("the third attempt's end", lambda: (run_of(service) or {}).get("step") == 219)
        wait_until("the third attempt's end", lambda: run_of(service)["state"] == "finished")
        view = run_of(service)
        assert (view["world_size"], view["effective_batch_size"]) == (3, 48)
        assert [run["run"] for run in service.get("/api/v1/runs")["runs"]] == [RUN]
        ranks = service.get(f"/api/v1/runs/{RUN}/ranks")["ranks"]
        assert [each["attempt"] for each in ranks] == [2, 2, 2]

        series = service.get(f"/api/v1/runs/{RUN}/series/loss?from_step=0&to_step=219&points=2000")
        steps = [point["step"] for point in series["points"]]
        assert (min(steps), max(steps)) <= (10, 219)
        assert steps == sorted(steps)

        found = service.get(f"/api/v1/runs/{RUN}/findings?status=all")["findings"]
        serious = [each for each in found if each["severity"] != "info" and each["category"] != "learning"]
        assert serious == [], serious


def run_of(service: Service) -> dict:
    """The run's view."""
    return service.get(f"/api/v1/runs/{RUN}")
