"""How long `stallwatch analyze` takes for a long CSV, next to what pandas takes to read the same file; or for console text.

    python tests/bench/analyze_csv.py --rows 1000000
    python tests/bench/analyze_csv.py --rows 1000000 --console

Both run in processes of their own, start and imports included, in turn. The bar is 10 seconds of wall time for a million rows;
the CPU time beside it says how much of a miss is the machine being busy with something else. Console text has a bar of 300 MB of
memory as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BAR_SECONDS = 10.0
BAR_ROWS = 1_000_000


def write_log(path: Path, rows: int) -> None:
    """A run that falls like a power law and stops at 60 %, with learning rate, gradient norm and wall time."""
    random = np.random.default_rng(1)
    step = np.arange(rows)
    loss = 2 + 4 * (1 + step / 1000) ** -0.4
    loss[int(0.6 * rows) :] = loss[int(0.6 * rows)]
    loss += 0.15 * random.standard_normal(rows)
    rate = 3e-4 * (0.5 + 0.5 * np.cos(0.5 * np.pi * step / rows))
    columns = (step, loss, rate, random.gamma(5, 0.2, rows), 1.7e9 + step * 0.21)
    header = "step,loss,lr,grad_norm,timestamp"
    np.savetxt(
        path, np.column_stack(columns), "%d,%.6f,%.8f,%.5f,%.3f", header=header, comments="", encoding="utf-8"
    )


def write_text(path: Path, rows: int) -> None:
    """The same run as a program prints it, one line of 150 characters a step."""
    random = np.random.default_rng(1)
    step = np.arange(rows)
    loss = 2 + 4 * (1 + step / 1000) ** -0.4 + 0.15 * random.standard_normal(rows)
    with path.open("w", encoding="utf-8") as file:
        for at, value in enumerate(loss.tolist()):
            clock = f"{at // 3600 % 24:02d}:{at // 60 % 60:02d}:{at % 60:02d}"
            file.write(
                f"2026-02-01 {clock},123 - root - INFO - step: {at + 1:7d}  loss: {value:.4f}  lr: 3.0000e-04  "
                f"grad_norm: 0.9132  memory: 41.20GiB(43.4%)  tps: 7,102  mfu: 40.66%\n"
            )


def timed(command: list[str]) -> tuple[float, float, subprocess.CompletedProcess[str]]:
    """Wall and CPU seconds of the command, and what it said."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, done


def main() -> int:
    """Write the file, run both in turn, print the best of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=BAR_ROWS)
    parser.add_argument("--console", action="store_true", help="console text instead of a table")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("run.log" if args.console else "run.csv")
        (write_text if args.console else write_log)(path, args.rows)
        analyze = [sys.executable, "-m", "stallwatch.detector", "analyze", "--json", str(path)]
        pandas = [sys.executable, "-c", f"import pandas; pandas.read_csv({str(path)!r})"]
        ours, theirs = [], []
        for _ in range(args.repeats):
            theirs.append((0.0, 0.0) if args.console else timed(pandas)[:2])
            wall, cpu, done = timed(analyze)
            if done.returncode not in {0, 3}:
                sys.stderr.write(done.stderr)
                return 1
            ours.append((wall, cpu))
        summary = json.loads(done.stdout)["summary"]
    bar = BAR_SECONDS * max(args.rows / BAR_ROWS, 0.1)
    report = {
        "rows": args.rows,
        "analyze_seconds": round(min(wall for wall, _ in ours), 2),
        "analyze_cpu_seconds": round(min(cpu for _, cpu in ours), 2),
        "pandas_read_seconds": round(min(wall for wall, _ in theirs), 2),
        "pandas_read_cpu_seconds": round(min(cpu for _, cpu in theirs), 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "bar_seconds": bar,
        "state": summary["state"],
        "state_since_step": summary["state_since_step"],
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return int(report["analyze_seconds"] > bar)


if __name__ == "__main__":
    sys.exit(main())
