"""Runs scenarios under other tools: `python tests/faults/peers/run.py`; see README.md beside this for their environments."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from faults.bench import open_bench
from faults.catalogue import SCENARIOS
from faults.peers import with_nvrx, with_stallwatch, with_torch, with_traceml, with_traincheck
from faults.peers.heard import Heard, weigh
from faults.peers.launch import Launch
from faults.peers.table import TOOLS, write
from faults.scenario import Case

OUT = Path("build/faults")
DOCS = Path("docs/faults-peers.md")
RANKS = 2
CHOSEN = (
    "sync/bypass-later",
    "sync/unused-at-last-step",
    "sync/bit-flip",
    "update/stale-1",
    "update/other-learning-rate",
    "update/old-tensors",
    "data/same-on-all",
    "data/repeated-order",
    "data/uneven-from-start",
    "data/undivided-accumulation",
    "data/wrong-labels",
    "scaling/huge-batch",
    "scaling/untuned-rate",
    "scaling/slow-network",
    "progress/slow-compute-50",
    "progress/slow-input-50",
    "progress/input-bound",
    "progress/all-slower",
    "progress/hang-in-input",
    "progress/killed-others-wait",
    "healthy/plain-mlp",
    "healthy/accumulation",
    "healthy/evaluation",
    "healthy/steady-timing",
)
"""One scenario a kind that two ranks and one attempt can show, one more where torch itself speaks, and four healthy twins."""
LISTEN: dict[str, Callable[[Launch], Heard]] = {
    "torch": with_torch.listen,
    "traceml": with_traceml.listen,
    "nvrx": with_nvrx.listen,
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", default=",".join(TOOLS), help="which, with commas")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="scenarios, instead of the chosen ones")  # fmt: skip
    parser.add_argument(
        "--environments", type=Path, default=OUT / "peers", help="folder with a virtual environment a tool"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--missing", action="store_true", help="only what has no result yet")
    parser.add_argument(
        "--stop-after", type=float, metavar="SECONDS", help="start no more jobs after so long"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"also write the tables into {DOCS}")
    parser.add_argument("--no-run", action="store_true", help="only write the tables again")
    return parser.parse_args()


def main() -> int:
    """Results are kept by scenario and tool, so that they may be made in parts."""
    options = arguments()
    # As an exception, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    store = options.out.resolve() / "peers.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    wanted = [
        name
        for name in (SCENARIOS if options.only else CHOSEN)
        if not options.only or any(fnmatch.fnmatch(name, pattern) for pattern in options.only)
    ]
    tools = [] if options.no_run else options.tools.split(",")
    twins = [Case(SCENARIOS[name], options.seed, RANKS) for name in CHOSEN if SCENARIOS[name].kind is None]
    references = with_traincheck.References(store.parent / "peers-jobs" / "traincheck", twins)
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(open_bench(store.parent / "peers-stallwatch")) if "stallwatch" in tools else None  # fmt: skip
        for name, tool in itertools.product(wanted, tools):
            key = f"{name} {tool}"
            if options.missing and key in kept:
                continue
            if options.stop_after and time.monotonic() - began > options.stop_after:
                break
            case = Case(SCENARIOS[name], options.seed, RANKS)
            if tool == "stallwatch":
                assert bench is not None
                heard = with_stallwatch.listen(bench, case)
            elif tool == "traincheck":
                launch = _launch(tool, case, store.parent, options.environments)
                heard = with_traincheck.listen(launch, references)
            else:
                heard = LISTEN[tool](_launch(tool, case, store.parent, options.environments))
            result = weigh(tool, case, heard)
            kept[key] = result.as_dict()
            store.write_text(json.dumps(kept, indent=1))
            print(f"{tool:10} {name:28} {result.worth.value:18} {result.quote} [{heard.note or heard.exit_code}, {heard.seconds:.0f} s]", flush=True)  # fmt: skip
    if options.write_docs:
        order = {name: index for index, name in enumerate(CHOSEN)}
        write(sorted(kept.values(), key=lambda each: order.get(each["scenario"], len(order))), DOCS)
    return 0


def _launch(tool: str, case: Case, out: Path, environments: Path) -> Launch:
    folder = out / "peers-jobs" / tool / case.run.replace("/", "-").replace(":", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Launch(tool, case, folder, None if tool == "torch" else (environments / tool).resolve())


if __name__ == "__main__":
    sys.exit(main())
