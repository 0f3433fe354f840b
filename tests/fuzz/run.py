"""Fuzzes what takes bytes or text from outside: `make fuzz`, or `python tests/fuzz/run.py --target wire --runs 1000000`.

Each target runs in a process of its own under atheris (coverage-guided, libFuzzer), then its inputs are given to it again without
the fuzzer, to see whether memory grows. A crash, an input that takes over 10 s of the CPU or never ends, or growth ends with exit code 1; the
input is left in the folder that is named, and `--target T --input FILE` gives it to the target again, with the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent)]

from fuzz.catalogue import TARGETS  # noqa: E402  found by the line above

GROWTH_KIB = 4096
"""What an allocator's fragments may come to; a target that kept one object an input would be far above it."""
GROWTH_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one target."""

    target: str
    inputs: int
    seconds: float
    cpu_seconds: float
    slowest_seconds: float
    warm_kib: int
    end_kib: int
    """Without the fuzzer: after a tenth of the inputs, and at the end."""
    problem: str
    """Empty when there is none."""


def fuzz(target: str, folder: Path, *, runs: int, seconds: int = 0, seed: int = 1) -> Outcome:
    """Fuzz one target, and measure its memory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").unlink(missing_ok=True)
    limits = ["--runs", str(runs), "--seconds", str(seconds), "--seed", str(seed), "--folder", str(folder)]
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(
            [sys.executable, str(HERE / "engine.py"), target, *limits],
            env=_environment(),
            stdout=log,
            stderr=log,
            check=False,
        ).returncode
    seen = json.loads((folder / "report.json").read_text()) if (folder / "report.json").exists() else {}
    problem = f"exit code {code}: {_last_words(folder / 'log.txt')}" if code else ""
    memory = {"warm_kib": 0, "end_kib": 0}
    if not problem:
        again = subprocess.run(
            [
                sys.executable,
                str(HERE / "replay.py"),
                target,
                "--inputs",
                str(seen["inputs"] // 10),
                "--folder",
                str(folder),
            ],
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if again.returncode:
            problem = f"the second time an input failed that had not the first time: {again.stderr[-500:]}"
        else:
            memory = json.loads(again.stdout.splitlines()[-1])
            grown = memory["end_kib"] - memory["warm_kib"]
            if grown > max(GROWTH_KIB, GROWTH_SHARE * memory["warm_kib"]):
                problem = f"memory grew by {grown} KiB"
    return Outcome(
        target,
        seen.get("inputs", 0),
        seen.get("seconds", 0.0),
        seen.get("cpu_seconds", 0.0),
        seen.get("slowest_seconds", 0.0),
        memory["warm_kib"],
        memory["end_kib"],
        problem,
    )


def _environment() -> dict[str, str]:
    paths = [str(ROOT / each) for each in ("agents", "detector", "protos", "tests")]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STALLWATCH_")}
    return inherited | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def _last_words(log: Path) -> str:
    """The exception, or what libFuzzer has found."""
    lines = log.read_text(errors="replace").splitlines()
    for place, line in enumerate(lines):
        if "Uncaught Python exception" in line:
            return lines[place + 1][:500]
    said = [line for line in lines if "ERROR" in line or "Error" in line]
    return (said or lines or ["nothing was said"])[-1][:500]


def main() -> int:
    """Fuzz, print a line a target, and say whether all went well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", choices=TARGETS, action="append", help="more than once for several; default: all"
    )
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs a target")
    parser.add_argument(
        "--seconds", type=int, default=0, help="at most this long a target; 0: as long as it takes"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--jobs", type=int, default=1, help="targets at a time; a million inputs of all take hours"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "fuzz", help="folder of corpora, logs and crashes"
    )
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="give one target this input, and nothing else"
    )
    given = parser.parse_args()
    if given.input is not None:
        if len(given.target or ()) != 1:
            parser.error("--input needs one --target")
        sys.path[:0] = _environment()["PYTHONPATH"].split(os.pathsep)
        importlib.import_module(f"fuzz.targets.{given.target[0]}").one(given.input.read_bytes())
        return 0
    print(
        f"{'target':15} {'inputs':>9} {'inputs/s':>9} {'slowest':>9} {'memory at 10 %':>15} {'at the end':>11}"
    )

    def do(target: str) -> Outcome:
        return fuzz(target, given.out / target, runs=given.runs, seconds=given.seconds, seed=given.seed)

    bad = False
    # Each is a process of its own: the threads only wait.
    workers = ThreadPoolExecutor(given.jobs)
    for done in as_completed([workers.submit(do, target) for target in given.target or TARGETS]):
        seen = done.result()
        print(
            f"{seen.target:15} {seen.inputs:9,} {seen.inputs / max(seen.cpu_seconds, 1e-9):9,.0f} {seen.slowest_seconds * 1000:6.0f} ms "
            f"{seen.warm_kib / 1024:11.1f} MiB {seen.end_kib / 1024:7.1f} MiB  {seen.problem or 'ok'}",
            flush=True,
        )
        bad = bad or bool(seen.problem)
    if bad:
        print(f"inputs and logs are in {given.out}", file=sys.stderr)
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
