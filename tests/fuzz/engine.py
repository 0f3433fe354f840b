"""Runs one target under atheris, in this process: `run.py` starts it, since libFuzzer ends the process it runs in."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import atheris

from fuzz.catalogue import TARGETS
from fuzz.memory import resident_kib

STRUCTURED_SHARE = 0.6
"""Of mutations, where a target has its own; the others are libFuzzer's on bytes."""
REPORTS = 50
SLOW_SECONDS = 10
"""Of the CPU: an input that takes more is a finding."""
TIMEOUT_SECONDS = 30
"""By the clock on the wall, for one that never ends: on a full machine a process may not have its turn for 10."""
MEMORY_MB = 3000


class Meter:
    """Counts inputs, and watches time and memory."""

    def __init__(self, one: Any, report: Path, runs: int) -> None:
        self._one, self._report, self._runs = one, report, runs
        self._started = time.monotonic()
        self._every = max(1, runs // REPORTS)
        self.inputs = 0
        self.slowest = 0.0
        self.memory: list[tuple[int, int]] = []
        """Inputs so far, and resident KiB."""

    def __call__(self, data: bytes) -> None:
        """One input."""
        started, cpu = time.perf_counter(), time.thread_time()
        self._one(data)
        if (taken := time.thread_time() - cpu) > SLOW_SECONDS:
            raise AssertionError(f"an input took {taken:.1f} s of the CPU")
        self.slowest = max(self.slowest, time.perf_counter() - started)
        self.inputs += 1
        if self.inputs % self._every == 0 or self.inputs == self._runs:
            self.write()

    def write(self) -> None:
        """What `run.py` reads."""
        self.memory.append((self.inputs, resident_kib()))
        self._report.write_text(
            json.dumps(
                {
                    "inputs": self.inputs,
                    "seconds": time.monotonic() - self._started,
                    "cpu_seconds": time.process_time(),
                    "slowest_seconds": self.slowest,
                    "memory_kib": self.memory,
                }
            )
        )


def main() -> None:
    """Fuzz; ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    for name in TARGETS[given.target]:
        importlib.import_module(name)
    with atheris.instrument_imports(include=["stallwatch"]):
        target: Any = importlib.import_module(f"fuzz.targets.{given.target}")
    corpus = given.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    meter = Meter(target.one, given.folder / "report.json", given.runs)
    arguments = [
        sys.argv[0],
        f"-runs={given.runs}",
        f"-seed={given.seed}",
        f"-max_len={target.MAX_BYTES}",
        f"-timeout={TIMEOUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={given.folder}/",
        "-detect_leaks=0",
        "-len_control=0",
        "-reload=0",
        *([f"-max_total_time={given.seconds}"] if given.seconds else []),
        str(corpus),
    ]
    structured = getattr(target, "mutate", None)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        choice = random.Random(seed)
        if choice.random() < STRUCTURED_SHARE:
            try:
                changed: bytes = structured(data, choice)
            except Exception:
                # libFuzzer would go on for ever with a mutator that raises.
                traceback.print_exc()
                os._exit(70)
            if len(changed) <= most:
                return changed
        return bytes(atheris.Mutate(data, most))

    if structured is None:
        atheris.Setup(arguments, meter)
    else:
        atheris.Setup(arguments, meter, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
