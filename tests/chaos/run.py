"""`make bench-chaos`: does every fault to a pair of real jobs and the detector, and judges what is left."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.bench import run_all
from chaos.catalogue import FAULTS
from chaos.fault import Fault
from chaos.measure import Outcome
from chaos.table import write

OUT = Path("build/chaos")
DOCS = Path("docs/reliability.md")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench-chaos ARGS=...", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN",
                        help="faults by name, or by a pattern with * and ?; may be repeated")  # fmt: skip
    parser.add_argument("--repeat", type=int, default=1, help="each fault so many times; the worst counts")
    parser.add_argument("--jobs", type=int, default=1,
                        help="pairs side by side, of faults that leave the detector alone: sooner done, less exact step times")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only name the faults")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder for the table, logs and the detector's data"
    )
    parser.add_argument("--keep", action="store_true",
                        help="keep the results in --out of faults that are not done now: a table in parts")  # fmt: skip
    parser.add_argument(
        "--rest", action="store_true", help="only faults that have no result in --out yet; implies --keep"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"also write the table into {DOCS}")
    return parser.parse_args()


def tell(outcome: Outcome) -> None:
    """One line on a fault, and what was wrong with it."""
    problems = outcome.problems()
    ratio = "-" if outcome.slowdown is None else f"x{outcome.slowdown:.3f} (whole x{outcome.longer:.3f})"
    back = "-" if outcome.recovery_seconds is None else f"{outcome.recovery_seconds:.1f} s"
    print(
        f"{'BROKEN' if problems else 'held':8} {outcome.fault.name:28} lost {outcome.lost} of {outcome.steps} (dropped {outcome.dropped}),"
        f" doubled {outcome.doubled}, came again {outcome.repeated}, identical {outcome.identical}, steps {ratio}, back after {back},"
        f" findings {outcome.kept} of {outcome.found} [{outcome.wall_seconds:.0f} s]",
        flush=True,
    )
    for problem in problems:
        print(f"{'':8} {problem}", flush=True)


def earlier(path: Path) -> list[Outcome]:
    """The results of earlier calls, of faults that still exist."""
    rows = json.loads(path.read_text()) if path.exists() else []
    return [Outcome.from_dict(row, FAULTS[row["fault"]]) for row in rows if row["fault"] in FAULTS]


def worst(outcomes: list[Outcome]) -> list[Outcome]:
    """One outcome a fault: one that breaks a bar, or else the one that took longest to come back."""
    chosen: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda each: (bool(each.problems()), each.recovery_seconds or 0.0)):
        chosen[outcome.fault.name] = outcome
    return list(chosen.values())


def main() -> int:
    """Run; the exit code is 1 when a bar is broken."""
    options = arguments()
    faults: list[Fault] = [
        fault
        for fault in FAULTS.values()
        if not options.only or any(fnmatch.fnmatch(fault.name, each) for each in options.only)
    ]
    if options.list or not faults:
        for fault in faults:
            print(f"{fault.name:28} {fault.says}")
        print(f"{len(faults)} faults", file=sys.stderr)
        return 0 if faults else 2
    began = time.monotonic()
    kept = earlier(options.out / "results.json") if options.keep or options.rest else []
    if options.rest:
        done = {outcome.fault.name for outcome in kept}
        faults = [fault for fault in faults if fault.name not in done]
    outcomes: list[Outcome] = []

    def take(outcome: Outcome) -> None:
        """Told and written at once: what was measured is kept when the rest is interrupted."""
        tell(outcome)
        outcomes[:] = worst([*outcomes, outcome])
        again = {each.fault.name for each in outcomes}
        others = [each for each in kept if each.fault.name not in again]
        write([*others, *outcomes], options.out, docs=DOCS if options.write_docs else None)

    run_all(options.out, faults * options.repeat, take, options.jobs)
    broken = sum(bool(outcome.problems()) for outcome in outcomes)
    print(
        f"{len(outcomes)} faults in {time.monotonic() - began:.0f} s, {broken} broke a bar; tables in {options.out}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
