"""TrainCheck: invariants inferred from healthy runs, checked on the trace of the run in question.

References are the healthy twins of the comparison with another seed, so that what it learns covers their programs. Jobs are cut
to some steps, as its usage guide advises and as the size of its traces demands.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from faults.peers.heard import Heard, Statement
from faults.peers.launch import SCRIPT, Ended, Launch
from faults.scenario import Case, Ending, Lane

STEPS, AT = 16, 8
REFERENCE_SEED = 1
_COLLECT_SECONDS, _INFER_SECONDS, _CHECK_SECONDS = 120.0, 540.0, 300.0
_KINDS = (
    (("DistributedDataParallel", "reducer", "all_reduce"), {"missing_gradient_sync"}),
    (("Parameter.data stays consistent",), {"missing_gradient_sync", "replica_desync", "divergent_update"}),
    (("step() changes Parameter.data:",), {"ineffective_update"}),
    (("DataLoader", "Sampler"), {"duplicate_shards", "repeated_order"}),
)
"""What an invariant, found violated, can be said to name."""


class References:
    """The invariants of the healthy twins, inferred once."""

    def __init__(self, folder: Path, twins: list[Case]) -> None:
        self.invariants = folder / "invariants.json"
        self._folder = folder
        self._twins = twins

    def make(self, like: Launch) -> str:
        """Infer them, unless they are there; returns why it failed."""
        if self.invariants.exists():
            return ""
        traces = []
        for twin in self._twins:
            folder = self._folder / "reference" / twin.scenario.name.replace("/", "-")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            launch = replace(like, case=replace(twin, seed=REFERENCE_SEED), folder=folder)
            ended = collect(launch)
            if ended.exit_code:
                return f"traincheck-collect on {twin.scenario.name} ended with {ended.exit_code}"
            traces.append(str(folder / "trace"))
        command = [like.program("traincheck-infer"), "-f", *traces, "-o", str(self.invariants)]
        ended = replace(like, folder=self._folder).run(command, seconds=_INFER_SECONDS)
        return "" if self.invariants.exists() else f"traincheck-infer was not done in {_INFER_SECONDS:.0f} s"


def listen(launch: Launch, references: References) -> Heard:
    """Trace the job, and check the trace."""
    scenario = launch.case.scenario
    if scenario.ending is Ending.KILLED or scenario.lane is Lane.ALONE:
        return Heard(unable="it checks values and calls in finished traces, not time")
    if trouble := references.make(launch):
        return Heard(unable=trouble)
    traced = collect(launch)
    if traced.exit_code != 0:
        return Heard((), traced.exit_code, traced.seconds, note="the traced job failed")
    checked = launch.run(
        [
            launch.program("traincheck-check"),
            *("-f", str(launch.folder / "trace"), "-i", str(references.invariants)),
            *("-o", str(launch.folder / "check"), "--no-html-report"),
        ],
        seconds=_CHECK_SECONDS,
    )
    summary = launch.folder / "check" / "trace" / "violations_summary.json"
    if not summary.exists():
        return Heard(unable=f"traincheck-check ended with {checked.exit_code}")
    said = [_statement(each) for each in json.loads(summary.read_text())["violations"]]
    note = f"{len(said)} invariants violated"
    return Heard(said, traced.exit_code, traced.seconds + checked.seconds, note=note)


def collect(launch: Launch) -> Ended:
    """Run the job under its tracer."""
    scenario = launch.case.scenario
    at = STEPS - 1 if scenario.at == scenario.steps - 1 else AT
    launch.shorter = {"steps": STEPS, **({"at": at} if scenario.at else {})}
    if "epoch_steps" in scenario.options:
        launch.shorter["options"] = {**scenario.options, "epoch_steps": AT}
    # It writes its copy of the script beside the script.
    script = launch.folder / SCRIPT.name
    shutil.copy(SCRIPT, script)
    start = launch.folder / "start.sh"
    torchrun = launch.program("torchrun")
    start.write_text(
        f"exec {torchrun} --standalone --nproc-per-node={launch.case.ranks} {script} {launch.write_order()}\n"
    )
    return launch.run(
        [
            launch.program("traincheck-collect"),
            *("--pyscript", str(script), "--shscript", str(start), "--output-dir", str(launch.folder / "trace")),
            # The default, proxy, ends DDP with a segmentation fault under this torch.
            *("--models-to-track", "model", "--model-tracker-style", "subclass"),
        ],
        seconds=_COLLECT_SECONDS,
    )  # fmt: skip


def _statement(violation: dict[str, Any]) -> Statement:
    name = violation["display_name"]
    kinds = {kind for words, named in _KINDS if any(word in name for word in words) for kind in named}
    return Statement(name, f"violated from step {violation['first_step']}: {name}", frozenset(kinds))
