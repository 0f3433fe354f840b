"""The command line without a service: help, errors, exit codes, texts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stallwatch.detector.cli.text import finding_line, run_report, runs_table

HEAVY = ("ray", "grpc", "numpy", "sqlalchemy", "starlette", "uvicorn", "matplotlib", "torch")
FINDING = {
    "id": "r#hang#1",
    "kind": "hang",
    "category": "progress",
    "severity": "critical",
    "confidence": 0.99,
    "status": "firing",
    "since_step": 120,
    "detected_step": 121,
    "resolved_step": None,
    "ranks": [3],
    "layers": [],
    "reason": "No step for 40 s, 80 times the usual.",
    "evidence": {},
    "advice": ["Look at rank 3's stack."],
    "causes": [{"kind": "lr_too_low", "confidence": 0.8, "reason": "It is low."}],
}
RUN = {
    "run": "team/[bold]x",
    "state": "warming_up",
    "state_since_step": 0,
    "step": 121,
    "epoch": None,
    "world_size": 4,
    "effective_batch_size": 32.0,
    "updated_at": 0.0,
    "loss": {"value": None, "slope_per_step": None, "noise": None, "forecast": None},
    "gradient_noise_scale": None,
    "batch_over_critical": None,
    "findings": [FINDING],
    "sample_period": 32,
    "waiting_checks": ["replica_desync", "rank_outlier"],
}


def stallwatch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "stallwatch.detector", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "", "HOME": "/nonexistent", **environment},
    )


def test_help_lists_every_command():
    """With a line for each, and the exit codes."""
    shown = stallwatch("--help")
    assert shown.returncode == 0
    for command in ("serve", "runs", "show", "watch", "doctor"):
        assert command in shown.stdout
    assert "Exit codes" in shown.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"], ["runs", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    """So it comes at once."""
    code = (
        "import sys; from stallwatch.detector.cli import main\n"
        f"sys.argv = ['stallwatch', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"


@pytest.mark.parametrize("command", [["runs"], ["show", "r"], ["watch", "r"]])
def test_a_detector_that_is_not_there_is_a_usage_error(command):
    """One sentence on standard error that says what to do, and nothing on standard output."""
    ran = stallwatch(*command, "--server", "http://127.0.0.1:9")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no detector answers at http://127.0.0.1:9" in ran.stderr
    assert "stallwatch serve" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["show"],
        ["runs", "--bogus"],
        ["runs", "--server", "ftp://x"],
        ["serve", "--grpc-port", "99999"],
    ],
)
def test_bad_usage_exits_with_2(arguments):
    """Whoever notices it."""
    ran = stallwatch(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr


def test_a_finding_is_told_whole(capsys):
    """Sentence, onset, rank, cause and advice; what looks like markup is text."""
    from rich.console import Console

    console = Console(width=110)
    gaps = [{"text": f"Data is missing at step {step} (buffer full, rank 0)"} for step in range(7)]
    console.print(run_report(RUN, [], gaps))
    console.print(runs_table([RUN]))
    shown = capsys.readouterr().out
    for part in (
        FINDING["reason"],
        "since step 120",
        "rank 3",
        "It is low.",
        "Look at rank 3",
        "team/[bold]x",
        "every 32 steps; waiting for samples: replica_desync, rank_outlier",
    ):
        assert part in shown
    assert "\x1b" not in shown
    assert finding_line(FINDING).startswith("firing critical hang since step 120, rank 3: No step")
