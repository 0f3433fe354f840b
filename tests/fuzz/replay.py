"""Gives a target the inputs that fuzzing has found, over and over, without the fuzzer: does memory grow?

libFuzzer's own memory grows by some hundred bytes an input, which would hide what the target keeps.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
from pathlib import Path
from typing import Any

from fuzz.catalogue import TARGETS
from fuzz.memory import resident_kib

WARM_SHARE = 0.1


def main() -> None:
    """Prints resident KiB when a tenth is done, and at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    target: Any = importlib.import_module(f"fuzz.targets.{given.target}")
    found = [path.read_bytes() for path in sorted((given.folder / "corpus").iterdir())]
    choice = random.Random(0)
    choice.shuffle(found)
    # All of them once, before anything is measured: caches fill, and modules are imported where they are needed.
    warm = max(len(found), int(given.inputs * WARM_SHARE))
    memory = 0
    for number in range(max(given.inputs, 2 * warm)):
        if number == warm:
            memory = resident_kib()
        target.one(found[number % len(found)])
    print(json.dumps({"warm_kib": memory, "end_kib": resident_kib()}))


if __name__ == "__main__":
    main()
