"""`stallwatch tail`: logs that are still being written."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stallwatch.detector.cli import build
from stallwatch.detector.ingest.validate import check_batch, check_hello
from support.console_layouts import LAYOUTS
from support.telemetry_server import TelemetryServer

TRAINING = """
import sys, time
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
true = torch.randn(16, 1)
model = torch.nn.Linear(16, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(4000):
    inputs = torch.randn(256, 16)
    loss = torch.nn.functional.mse_loss(model(inputs), inputs @ true + torch.randn(256, 1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.4f}, lr {optimizer.param_groups[0]['lr']:.4f}", flush=True)
    if step % 400 == 0:
        time.sleep(0.1)
"""


@pytest.fixture
def tailing(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A log that does not hold anything yet, and who follows it."""
    path = tmp_path / "train.log"
    path.touch()
    command = [sys.executable, "-m", "stallwatch.detector", "tail", "--json", "--idle", "4", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield path, process
        process.kill()


def said(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    out, err = process.communicate(timeout=120)
    assert process.returncode in {0, 3}, err
    return [json.loads(line) for line in out.splitlines()]


def analyze(path: Path) -> dict[str, object]:
    given = ["analyze", "--json", str(path)]
    document: dict[str, object] = json.loads(CliRunner().invoke(build(given), given).stdout)
    return document


def test_a_training_that_is_piped_in_is_judged_as_its_log_is(tmp_path: Path):
    """`python train.py 2>&1 | tee log | stallwatch tail -`: the plateau is called where `analyze` calls it."""
    script, log = tmp_path / "train.py", tmp_path / "log"
    script.write_text(TRAINING)
    line = (
        f"{sys.executable} {script} 2>&1 | tee {log} | {sys.executable} -m stallwatch.detector tail --json -"
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode in {0, 3}, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    states = [each["run"]["states"][-1] for each in told if "run" in each]
    document = analyze(log)
    assert states[-1]["state"] == "plateau"
    assert states[-1] == document["states"][-1]  # type: ignore[index]
    assert "plateau" in {each["finding"]["kind"] for each in told if "finding" in each}


@pytest.mark.parametrize("how", ["appended", "rotated", "emptied", "replaced"])
def test_a_log_may_be_rotated_or_emptied(tailing: tuple[Path, subprocess.Popen[str]], how: str):
    """Nothing of what was written is lost, and nothing counts twice."""
    path, process = tailing
    lines = LAYOUTS["sklearn_verbose"]().text.splitlines(keepends=True)[:40]
    half = "".join(lines[:20]) + lines[20][:-4]
    path.write_text(half)
    # Until it was taken.
    told = process.stdout.readline()  # type: ignore[union-attr]
    assert json.loads(told)["run"]["summary"]["points"] >= 20
    rest = "".join(lines[20:])
    if how == "appended":
        with path.open("a") as file:
            file.write(lines[20][-4:] + "".join(lines[21:]))
    elif how == "rotated":
        path.rename(path.with_suffix(".1"))
        time.sleep(0.2)
        path.write_text(rest)
    elif how == "emptied":
        os.truncate(path, 0)
        time.sleep(2.5)
        with path.open("a") as file:
            file.write(rest)
    else:
        other = path.with_suffix(".new")
        other.write_text(rest)
        other.replace(path)
    # What it says last is about all of it.
    process.wait(timeout=60)
    assert process.returncode == 0


def test_a_table_and_a_folder_are_followed_too(tmp_path: Path):
    """Read anew whenever they have changed; several runs are told apart by name."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(
            "step,loss\n" + "".join(f"{i},{3 - i / 100}\n" for i in range(50))
        )
    given = ["tail", "--idle", "0", str(tmp_path)]
    result = CliRunner().invoke(build(given), given)
    assert result.exit_code == 0
    assert "a: following" in result.stdout
    assert "b: step" in result.stdout


def test_nothing_to_follow_is_said(tmp_path: Path):
    """A wrong path, and an input without a loss."""
    given = ["tail", str(tmp_path / "nowhere")]
    assert "no such file" in str(CliRunner().invoke(build(given), given).exception)
    done = subprocess.run(
        [sys.executable, "-m", "stallwatch.detector", "tail", "-"],
        input="step=1 reward=2\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "name it with --loss" in done.stderr


def test_a_log_that_is_served_is_sent_as_a_run(tmp_path: Path):
    """Each point and evaluation once, though the detector goes away meanwhile; then a goodbye."""
    path = tmp_path / "train.log"
    lines = [
        f"step {10 * i} loss {3 - i / 100:.2f} lr 0.1\n"
        + (f"val_loss {3.1 - i / 100:.2f}\n" if i % 20 == 19 else "")
        for i in range(100)
    ]
    lines[70] = "step 700 loss nan lr 0.1\n"
    path.write_text("".join(lines[:50]))
    with TelemetryServer() as server:
        command = [
            sys.executable,
            "-m",
            "stallwatch.detector",
            "tail",
            "--idle",
            "6",
            "--run",
            "my log",
            "--serve",
            server.endpoint,
            str(path),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            server.wait_for(lambda seen: seen.ranks and len(seen.rank(0).steps) == 50, 60)
            server.stop()
            with path.open("a") as file:
                file.write("".join(lines[50:]))
            time.sleep(1)
            server.start()
            server.wait_for(lambda seen: seen.rank(0).goodbyes, 60)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 3, err
        (key,) = server.ranks
        rank = server.rank(0)
    assert key[:2] == ("my-log", 0)
    assert rank.steps == [10 * i for i in range(100)]
    assert rank.column("loss_sum")[:2] == [3.0, 2.99]
    assert math.isinf(rank.column("loss_sum")[70])
    assert set(rank.column("learning_rate")) == {0.1}
    assert [each.step for batch in rank.batches for each in batch.evaluations] == [190, 390, 590, 790, 990]
    assert [each.reason for each in rank.goodbyes][-1:] == ["finished"]
    for hello in rank.hellos:
        check_hello(hello)
    for batch in rank.batches:
        check_batch(batch, 0)


def test_a_log_that_goes_back_is_another_attempt(tmp_path: Path):
    """A job that was resumed from a checkpoint."""
    path = tmp_path / "train.log"
    steps = [*range(60), *range(40, 80)]
    path.write_text("".join(f"step {step} loss {3 - step / 100:.2f}\n" for step in steps))
    with TelemetryServer() as server:
        given = ["tail", "--idle", "0", "--serve", server.endpoint, str(path)]
        assert CliRunner().invoke(build(given), given).exit_code == 0
        first, second = (server.ranks[key] for key in sorted(server.ranks, key=lambda each: each[2]))
    assert (first.steps, second.steps) == (steps[:60], steps[60:])
    assert (second.hellos[0].restart_count, second.hellos[0].first_step) == (1, 40)


def test_a_wrong_address_is_said(tmp_path: Path):
    """Before anything is sent."""
    path = tmp_path / "train.log"
    path.write_text("step 1 loss 2\nstep 2 loss 1\n")
    given = ["tail", "--idle", "0", "--serve", "nowhere", str(path)]
    assert "give it like 127.0.0.1:9846" in str(CliRunner().invoke(build(given), given).exception)
