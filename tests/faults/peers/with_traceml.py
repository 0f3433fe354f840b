"""TraceML: `traceml run`, and the diagnoses of its final summary."""

from __future__ import annotations

import json

from faults.peers.heard import Heard, Statement
from faults.peers.launch import SCRIPT, Launch

_KINDS = {
    "INPUT_BOUND": {"input_bound"},
    "INPUT_STRAGGLER": {"straggler"},
    "COMPUTE_STRAGGLER": {"straggler"},
    "H2D_STRAGGLER": {"straggler"},
    "RESIDUAL_STRAGGLER": {"straggler"},
    "STRAGGLER": {"straggler"},
}
_SECTIONS = ("step_time", "step_memory")
"""What it says of the training. Its notes on how busy the machine is (HIGH CPU) are true of any small machine."""
_FINISH_SECONDS = 30.0


def listen(launch: Launch) -> Heard:
    """Run the job under TraceML in its default mode."""
    case = launch.case
    command = [
        launch.program("traceml"),
        "run",
        str(SCRIPT),
        f"--nproc-per-node={case.ranks}",
        "--run-name=run",
        "--args",
        str(launch.write_order()),
    ]
    ended = launch.run(command, seconds=case.scenario.patience_seconds + _FINISH_SECONDS)
    path = launch.folder / "logs" / "run" / "final_summary.json"
    if not path.exists():
        return Heard((), ended.exit_code, ended.seconds, note="it wrote no summary")
    summary = json.loads(path.read_text())
    said = [
        Statement(
            issue["kind"],
            f"{issue['status']} ({issue['severity']}): {issue['summary']}",
            frozenset(_KINDS.get(issue["kind"], ())),
            tuple(issue["ranks"] or ()),
        )
        for section in _SECTIONS
        for issue in summary[section]["issues"]
        if issue["severity"] in {"warn", "crit"}
    ]
    verdict = summary["primary_diagnosis"]
    return Heard(said, ended.exit_code, ended.seconds, note=f"verdict {verdict['status']}")
