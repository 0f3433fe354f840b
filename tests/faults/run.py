"""`make bench-faults`: runs scenarios, prints a line for each, and writes tables into build/faults."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.bench import open_bench
from faults.catalogue import SCENARIOS
from faults.judge import BAD, Outcome, Verdict
from faults.report import write
from faults.scenario import Case, Scenario

OUT = Path("build/faults")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench-faults ARGS=...", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN",
                        help="scenarios by name, or by a part of it, or by a pattern with * and ?; may be repeated")  # fmt: skip
    parser.add_argument("--kinds", default="", help="only these kinds, with commas; `none` for healthy twins")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N-1 of every scenario")
    parser.add_argument(
        "--ranks", default="", help="world sizes, with commas; all of the scenario's otherwise"
    )
    parser.add_argument("--jobs", type=int, default=2, help="jobs side by side, of those that timing does not matter to")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only name the scenarios")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder for tables, logs and the service's data"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the results in --out of cases that are not run now: a suite in parts",
    )
    parser.add_argument("--write-docs", action="store_true", help="also write the table into docs/faults.md")
    return parser.parse_args()


def select(options: argparse.Namespace) -> list[Case]:
    """The cases asked for: small worlds first, as they are quick."""
    kinds = {kind for kind in options.kinds.split(",") if kind}
    sizes = {int(size) for size in options.ranks.split(",") if size}
    return [
        Case(scenario, seed, ranks)
        for scenario in SCENARIOS.values()
        if _is_meant(scenario, options.only) and (not kinds or (scenario.kind or "none") in kinds)
        for ranks in scenario.ranks
        if not sizes or ranks in sizes
        for seed in range(options.seeds)
    ]


def _is_meant(scenario: Scenario, patterns: list[str]) -> bool:
    return not patterns or any(
        fnmatch.fnmatch(scenario.name, pattern) or pattern in scenario.name for pattern in patterns
    )


def earlier(path: Path, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The results of an earlier call, but for cases that were run again."""
    again = {outcome.case for outcome in outcomes}
    rows = json.loads(path.read_text()) if path.exists() else []
    kept = [
        Outcome.from_dict(row, SCENARIOS[row["scenario"]]) for row in rows if row["scenario"] in SCENARIOS
    ]
    return [outcome for outcome in kept if outcome.case not in again]


def tell(outcome: Outcome) -> None:
    """One line on a case, and what was wrong with it."""
    case = outcome.case
    facts = []
    if outcome.found is not None:
        facts.append(f"since {outcome.found['since_step']} (true {case.at})")
        facts.append(f"called after {outcome.delay_steps} steps")
        if outcome.delay_seconds is not None:
            facts.append(f"{outcome.delay_seconds:.1f} s")
        facts.append(f"ranks {list(outcome.found['ranks'])} (true {list(case.culprits) or 'any'})")
    line = f"{outcome.verdict.value:15} {case.run:52} {case.scenario.kind or '-':24} {', '.join(facts)} [{outcome.wall_seconds:.1f} s]"
    print(line, flush=True)
    for finding in outcome.extra:
        print(f"{'':15} + {finding['severity']} {finding['kind']}: {finding['reason']}", flush=True)
    if outcome.trouble:
        print(f"{'':15} {outcome.trouble}", flush=True)


def main() -> int:
    """Run; the exit code is 1 when any case came out wrong."""
    options = arguments()
    cases = select(options)
    if options.list or not cases:
        for case in cases:
            print(f"{case.run:56} {case.scenario.kind or '-':24} {case.scenario.says}")
        print(
            f"{len(cases)} cases of {len({case.scenario.name for case in cases})} scenarios", file=sys.stderr
        )
        return 0 if cases else 2
    began = time.monotonic()
    with open_bench(options.out) as bench:
        outcomes = bench.run_all(cases, options.jobs, tell)
    kept = earlier(options.out / "results.json", outcomes) if options.keep else []
    write([*kept, *outcomes], options.out, docs=Path("docs/faults.md") if options.write_docs else None)
    counts = Counter(outcome.verdict for outcome in outcomes)
    print(
        f"{len(outcomes)} cases in {time.monotonic() - began:.0f} s: "
        + ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
        + f"; tables in {options.out}"
    )
    return 1 if any(outcome.verdict in BAD for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
