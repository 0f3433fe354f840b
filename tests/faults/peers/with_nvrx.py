"""NVRx: `ft_launcher` with heartbeats, and straggler detection sections."""

from __future__ import annotations

import re

from faults.peers.heard import Heard, Statement
from faults.peers.launch import SCRIPT, Launch

HEARTBEAT_SECONDS = 30
"""The default is 45 minutes. Its guide has timeouts learnt as five times what was observed; steps here take 50 ms."""
_SECTION = re.compile(r"^NVRX step \d+ (\w+) section '(\w+)' ranks \[([\d, ]+)\] scores (.*)$", re.MULTILINE)
_HEARTBEAT = re.compile(r"\[RankMonServer\d+@[^:\]]+:(\d+)\] (Did not get .*? seconds\.)")
_FAILURE = re.compile(r"(\d+): ProcessFailure\(local_rank=\d+, pid=\d+, exitcode=(-?\d+).*?message='([^']*?)(?: received[^']*)?',")  # fmt: skip
_ENDED_BY_LAUNCHER = "-15"
_FINISH_SECONDS = 30.0
_KINDS = {"relative": {"straggler"}, "individual": {"throughput_regression"}}
"""A relative score compares ranks, an individual one a rank with its own past."""


def listen(launch: Launch) -> Heard:
    """Run the job under NVRx's launcher."""
    case = launch.case
    command = [
        launch.program("ft_launcher"),
        f"--nproc-per-node={case.ranks}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        "--max-restarts=0",
        f"--ft-rank-heartbeat-timeout={HEARTBEAT_SECONDS}",
        str(SCRIPT),
        str(launch.write_order()),
    ]
    ended = launch.run(command, seconds=case.scenario.patience_seconds + _FINISH_SECONDS)
    said = [
        Statement(
            f"{way} {section}",
            f"straggler_sections_{way}: {section!r}, ranks [{ranks}], scores {scores}",
            frozenset(_KINDS[way]),
            tuple(int(rank) for rank in ranks.split(",")),
        )
        for way, section, ranks, scores in _SECTION.findall(ended.output)
    ]
    silent = dict(_HEARTBEAT.findall(ended.output))
    if silent:
        ranks = tuple(sorted(int(rank) for rank in silent))
        text = f"rank monitors of ranks {list(ranks)}: {next(iter(silent.values()))}"
        said.append(Statement("heartbeat", text, frozenset({"hang", "rank_lost"}), ranks))
    elif failed := [each for each in _FAILURE.findall(ended.output) if each[1] != _ENDED_BY_LAUNCHER]:
        rank, code, message = failed[0]
        text = f"Some rank(s) exited with non-zero exit code: {rank}: exitcode={code}, {message!r}"
        said.append(Statement("exit", text, frozenset({"rank_lost"}), (int(rank),)))
    return Heard(said, ended.exit_code, ended.seconds)
