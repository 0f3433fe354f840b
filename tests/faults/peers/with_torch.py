"""torch alone: `torchrun`, and whatever job and launcher print."""

from __future__ import annotations

import re

from faults.peers.heard import Heard, Statement
from faults.peers.launch import SCRIPT, Launch

_NAMES = {
    "missing_gradient_sync": "finished reduction|did not receive grad|unused in producing loss",
    "hang": "timed out|timeout|stuck",
    "rank_lost": "SIGKILL|exitcode|closed by peer",
}
"""Words that name a fault; of any other kind its own words."""
_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)[^(\n]*(?:\(pid: \d+\))?([^\n]*)", re.DOTALL)  # fmt: skip
_EXCEPTION = re.compile(r"^(?:\[rank\d+\]:\s*)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
_WARNING = re.compile(r"(\w*Warning): (.+)")
_IGNORED = ("ChildFailedError", "OMP_NUM_THREADS")
QUOTE = 160


def listen(launch: Launch) -> Heard:
    """Run the job as it is."""
    case = launch.case
    command = [
        launch.program("torchrun"),
        "--standalone",
        f"--nproc-per-node={case.ranks}",
        str(SCRIPT),
        str(launch.write_order()),
    ]
    ended = launch.run(command, seconds=case.scenario.patience_seconds)
    return Heard(
        complaints(ended.output, case.scenario.kind, failed=bool(ended.exit_code)),
        ended.exit_code,
        ended.seconds,
    )


def complaints(output: str, kind: str | None, *, failed: bool) -> list[Statement]:
    """Exceptions, warnings, and the launcher's summary of who failed first."""
    said = [
        Statement(name, f"{name}: {text.strip()}"[:QUOTE])
        for pattern in ((_EXCEPTION, _WARNING) if failed else (_WARNING,))
        for name, text in pattern.findall(output)
        if not any(word in name + text for word in _IGNORED)
    ]
    if failed and (root := _ROOT_CAUSE.search(output)):
        rank, code, why = int(root[1]), root[2], root[3].strip()
        said.append(Statement(f"exit {code}", f"rank {rank} exitcode {code} {why}".strip(), ranks=(rank,)))
    words = _NAMES.get(kind or "", (kind or "-").replace("_", " "))
    return [
        Statement(each.code, each.text, frozenset({kind or ""}), each.ranks)
        if re.search(words, each.text, re.IGNORECASE)
        else each
        for each in said
    ]
