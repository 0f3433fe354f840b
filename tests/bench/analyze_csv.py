"""How long `stallwatch analyze` takes for a long CSV, next to what pandas takes to read the same file.

    python tests/bench/analyze_csv.py --rows 1000000

Both run in processes of their own, start and imports included, in turn. The bar is 10 seconds of wall time for a million rows;
the CPU time beside it says how much of a miss is the machine being busy with something else.
"""

from __future__ import annotations

import argparse
import json
import os
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
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.csv"
        write_log(path, args.rows)
        analyze = [sys.executable, "-m", "stallwatch.detector", "analyze", "--json", str(path)]
        pandas = [sys.executable, "-c", f"import pandas; pandas.read_csv({str(path)!r})"]
        ours, theirs = [], []
        for _ in range(args.repeats):
            theirs.append(timed(pandas)[:2])
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
        "bar_seconds": bar,
        "state": summary["state"],
        "state_since_step": summary["state_since_step"],
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return int(report["analyze_seconds"] > bar)


if __name__ == "__main__":
    sys.exit(main())
