"""`python -m stallwatch.agent train.py`: scripts that know nothing of Stallwatch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stallwatch.v1 import telemetry_pb2 as wire
from support.telemetry_server import TelemetryServer

SCRIPT = """
import copy, sys, torch
import torch.distributed as dist
assert __name__ == "__main__"
print("arguments", sys.argv[1:])
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
if "ddp" in sys.argv:
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
if "own" in sys.argv:
    from stallwatch.agent import attach
    agent = attach(model, optimizer, run="own")
for step in range(20):
    loss = model(torch.randn(32, 8)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if "own" in sys.argv:
        agent.log(loss, 5)
copy.deepcopy(model if "ddp" not in sys.argv else model.module)
if "fail" in sys.argv:
    raise ValueError("mine")
if "hang" in sys.argv:
    print("ready", flush=True)
    import time
    time.sleep(100)
if "ddp" in sys.argv:
    dist.destroy_process_group()
"""


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


@pytest.fixture
def script(tmp_path) -> Path:
    """A training script."""
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def start(
    script: Path, endpoint: str, *arguments: str, launcher: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Runs a script through the agent."""
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "stallwatch.agent", str(script), *arguments],
        env={**os.environ, "STALLWATCH_ENDPOINT": endpoint, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ddp_script_under_torchrun_is_watched(server, script):
    """Model, optimizer, loss and samples are found; the run bears torchrun's own id; the script sees its arguments."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    output, errors = (process := start(script, server.endpoint, "ddp", launcher=launcher)).communicate(
        timeout=100
    )
    assert process.returncode == 0, errors
    assert output.count("arguments ['ddp']") == 2
    for rank in (0, 1):
        record = server.rank(rank)
        assert record.hellos[0].parallelism == wire.PARALLELISM_DATA_PARALLEL
        assert record.steps == list(range(20))
        assert record.column("samples") == [32.0] * 20
        assert all(value > 0 for value in record.column("loss_sum"))
        assert [each.reason for each in record.goodbyes] == ["finished"]


def test_plain_script_that_fails_says_goodbye_with_its_exception(server, script):
    """One process, no DDP: the first module that trains is watched; the exit status is the script's."""
    _, errors = (process := start(script, server.endpoint, "fail")).communicate(timeout=60)
    assert process.returncode == 1
    assert "ValueError: mine" in errors
    record = server.rank(0, "train")
    assert record.steps == list(range(20))
    assert record.column("samples") == [32.0] * 20
    assert [each.reason for each in record.goodbyes] == ["exception: ValueError"]


def test_script_that_attaches_itself_takes_over(server, script):
    """Its own run and losses are what counts."""
    _, errors = (process := start(script, server.endpoint, "own")).communicate(timeout=60)
    assert process.returncode == 0, errors
    record = server.rank(0, "own")
    assert record.steps == list(range(20))
    assert record.column("samples") == [5.0] * 20


@pytest.mark.alone
def test_termination_is_not_delayed(server, script):
    """SIGTERM ends the process as it would without the agent: no goodbye, which is how a lost rank looks."""
    process = start(script, server.endpoint, "hang")
    assert process.stdout is not None
    assert process.stdout.readline()
    assert process.stdout.readline() == "ready\n"
    server.wait_for(lambda it: it.ranks and len(it.rank(0).steps) >= 19)
    process.send_signal(signal.SIGTERM)
    assert process.wait(2) == -signal.SIGTERM
    process.communicate()
    assert server.rank(0).goodbyes == []


def test_without_endpoint_the_script_runs_as_alone(script):
    """One line of warning, nothing else."""
    output, errors = (process := start(script, "")).communicate(timeout=60)
    assert process.returncode == 0
    assert "arguments []" in output
    assert "STALLWATCH_ENDPOINT" in errors


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["missing.py"], 2), (["-x"], 2)])
def test_usage(arguments, code):
    """Usage on request is a success; wrong usage is 2."""
    done = subprocess.run(
        [sys.executable, "-m", "stallwatch.agent", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "usage" in done.stdout + done.stderr or "does not exist" in done.stderr
