"""What is said of a straggler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from stallwatch.detector.checks.straggler_config import StragglerConfig
from stallwatch.detector.checks.straggler_suspects import Suspect
from stallwatch.detector.checks.straggler_windows import PHASES
from stallwatch.detector.checks.wording import ranks_text, seconds_text
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict


def slow_node(ranks: Sequence[int], hosts: Mapping[int, str]) -> str:
    """The host that has at least half of its ranks, and at least two, among `ranks`; empty when there is none or one host."""
    sizes = Counter(hosts.values())
    if len(sizes) < 2:
        return ""
    slow = Counter(hosts[rank] for rank in ranks if rank in hosts)
    nodes = [host for host, count in slow.items() if count >= 2 and 2 * count >= sizes[host]]
    # Ranks elsewhere are slow as well: the node is not the whole story.
    return nodes[0] if len(nodes) == 1 and slow[nodes[0]] == len(ranks) else ""


def phase_of(suspect: Suspect) -> tuple[str, float]:
    """The phase that takes longer, and its share of the excess; `communication` when none of the rank's own does."""
    total = sum(max(value, 0.0) for value in suspect.phases)
    leading = int(np.argmax(suspect.phases))
    if total <= 0.3 * suspect.excess:
        return "communication", 1.0
    return PHASES[leading], suspect.phases[leading] / total


def verdict(
    step: int,
    named: Sequence[int],
    suspects: Mapping[int, Suspect],
    hosts: Mapping[int, str],
    saved: float,
    config: StragglerConfig,
    *,
    by_wait: bool,
    bar: float,
) -> Verdict:
    """The finding: `named` has the worst rank first; without all of them, a step would be `saved` seconds shorter."""
    worst = suspects[named[0]]
    phase, phase_share = phase_of(worst)
    node = slow_node(named, hosts)
    since = min(suspects[rank].since for rank in named)
    host = hosts.get(named[0], "")
    if phase == "communication":
        where = "none of its own phases is longer, so its link or launch is slow"
    else:
        leading = worst.phases[PHASES.index(phase)]
        where = f"its {phase} takes {seconds_text(leading)} longer than that of the others"
    who = f"Rank {named[0]} holds the others up since step {since:,}"
    others = f", and {ranks_text(named[1:])} less so" if len(named) > 1 else ""
    if node:
        who = f"Node {node} holds the others up since step {since:,} ({ranks_text(sorted(named))})"
        where, others = where.replace("its ", f"rank {named[0]}'s ", 1), ""
    waited = "the others wait" if by_wait else "it takes longer than the others by"
    cpu = ""
    if worst.cpu_wait_share >= config.own_share * worst.share:
        cpu = f"; it waits for a CPU {100 * worst.cpu_wait_share:.2g} % of the time more than they do"
    evidence: dict[str, EvidenceValue] = {
        "slowdown_seconds": worst.excess,
        "slowdown_share": worst.share,
        "step_seconds": worst.step_seconds,
        "saved_seconds": saved,
        "saved_seconds_by_rank": tuple(suspects[rank].saved for rank in sorted(named)[:16]),
        "phase": phase,
        "phase_share": phase_share,
        "measured_by": "wait" if by_wait else "own time",
        "cpu_wait_share": worst.cpu_wait_share,
        "lasted_seconds": worst.seconds,
        "node": node,
        "host": host,
    }
    for name, value in zip(PHASES, worst.phases, strict=True):
        evidence[f"excess_{name}_seconds"] = value
    place = f"node {node}" if node else f"rank {named[0]}{f' ({host})' if host else ''}"
    advice = {
        "input": f"The data loading of {place} is the bottleneck: more workers or prefetching there, or a look at its storage "
        "and shard sizes.",
        "compute": f"Compare clocks, temperature and other processes on the machine of {place} with the rest; if its batches "
        "are larger, balance them.",
        "optimizer": f"Look at what {place} does between backward and the end of the step: logging, checkpoints.",
        "communication": f"Check the network link of {place}, and what its process does outside the step.",
    }[phase]
    if cpu:
        advice = f"Another process takes the CPU of {place}: move it, or give the rank cores of its own."
    return Verdict(
        kind="straggler",
        firing=True,
        step=step,
        since_step=since,
        since_step_error=5.0,
        confidence=0.95,
        score=worst.z,
        threshold=bar,
        reason=f"{who}: {waited} {seconds_text(worst.excess)} a step ({100 * worst.share:.3g} % of "
        f"{seconds_text(worst.step_seconds)}); {where}{others}{cpu}.",
        evidence=evidence,
        advice=(
            advice,
            f"Without it, steps would be {100 * max(saved, 0.0) / worst.step_seconds:.2g} % shorter.",
        ),
        ranks=tuple(sorted(named)),
    )
