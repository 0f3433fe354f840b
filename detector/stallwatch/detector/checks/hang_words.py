"""Who holds the others in a hang, and what is said of it."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.flight_records import pending
from stallwatch.detector.checks.wording import ranks_text, seconds_text
from stallwatch.detector.core.inputs import Phase
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>.+)')
_SHOWN_STACK = 600


def verdict(
    seen: LivenessObservation,
    culprits: NDArray[np.bool_],
    how: str,
    stuck: float,
    limit: float,
    usual: float,
) -> Verdict:
    """The finding: who holds the others, where, and what they wait in."""
    index = np.flatnonzero(culprits)
    named = tuple(seen.ranks[i] for i in index)
    first = int(index[0])
    rank = seen.ranks[first]
    phase = "finished" if seen.finished[first] else Phase(int(seen.phase[first])).name.lower()
    everyone = index.size == len(seen.ranks)
    others = [seen.ranks[i] for i in np.flatnonzero(~culprits)]
    waited_in = pending(seen.flight_records, others or seen.ranks, None if everyone else rank)
    stack = seen.stacks.get(rank, "")
    place = innermost(stack)
    head = f"No rank has finished a step for {seconds_text(stuck)} after step {seen.step:,} (a hang from {seconds_text(limit)})"
    collective = waited_in.text() if waited_in is not None else ""
    if how == "none":
        tail = f"all ranks wait in phase {phase}, in the same place{f': {collective}' if collective else ''}"
    elif how == "collective":
        missing = collective or f"collective {int(seen.collectives.max())}"
        tail = f"{ranks_text(named)} never issued {missing}, which the others wait in; it is in phase {phase}"
    elif how == "finished":
        tail = f"{ranks_text(named)} ended while the others wait for its gradients"
    elif everyone:
        tail = f"all ranks are in phase {phase}"
    else:
        tail = f"{ranks_text(named)} sits in phase {phase} while the others wait{f' in {collective}' if collective else ''}"
    evidence: dict[str, EvidenceValue] = {
        "stuck_seconds": stuck,
        "limit_seconds": limit,
        "usual_step_seconds": usual,
        "phase": phase,
        "decided_by": how,
        "phases": tuple(Phase(int(value)).name.lower() for value in seen.phase[:64]),
        "collectives": tuple(int(value) for value in seen.collectives[:64]),
    }
    if waited_in is not None:
        evidence["collective"] = waited_in.operation
        evidence["collective_sequence"] = waited_in.sequence
        evidence["collective_sizes"] = waited_in.sizes
        evidence["collective_group"] = waited_in.group
        evidence["last_collective_of_culprit"] = waited_in.last_of_culprit
    if stack:
        evidence["stack"] = stack[-_SHOWN_STACK:]
    host = seen.hosts.get(rank, "")
    advice = [
        f"Look at rank {rank}{f' on {host}' if host else ''}"
        + (f", which is in {place}." if place else f", in phase {phase}: take its stack with `py-spy dump`."),
    ]
    if how == "collective":
        advice.append(
            "Look for a branch that only some ranks take, and for ranks that get fewer batches than others."
        )
    elif phase == "input":
        advice.append("Look for a data loader worker that died or waits for storage.")
    elif how == "none":
        advice.append("Nobody lags: suspect the network or the communication library rather than the script.")
    return Verdict(
        kind="hang",
        firing=True,
        step=max(seen.step, 0),
        since_step=seen.step + 1,
        confidence=0.95,
        score=stuck,
        threshold=limit,
        reason=f"{head}: {tail}{f', at {place}' if place else ''}.",
        evidence=evidence,
        advice=tuple(advice),
        ranks=named,
    )


def find_culprits(seen: LivenessObservation, alive: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str]:
    """The ranks that hold the others, and how that is known."""
    considered = alive | seen.finished
    waiting = (seen.phase == Phase.SYNC) & ~seen.finished
    if seen.finished.any() and waiting.any():
        return seen.finished.copy(), "finished"
    known = alive & (seen.collectives >= 0)
    counts = seen.collectives[known]
    if counts.size == np.count_nonzero(alive) and counts.size > 1 and counts.min() < counts.max():
        return known & (seen.collectives == counts.min()), "collective"
    for phases in ((Phase.SYNC,), (Phase.SYNC, Phase.BACKWARD)):
        waits = alive & np.isin(seen.phase, phases)
        others = alive & ~waits
        if waits.any() and others.any():
            return others, "phase"
    steps = seen.last_step[considered & ~seen.finished]
    if steps.min() < steps.max():
        return alive & (seen.last_step == steps.min()), "step"
    if (waiting & alive).any():
        return alive.copy(), "none"
    return alive.copy(), "all"


def innermost(stack: str) -> str:
    r"""Where a stack is: its innermost frame, `function (file:line)`; innermost frames come last.

    >>> innermost('  File "train.py", line 3, in <module>\n  File "data/load.py", line 7, in fetch\n    get()')
    'fetch (load.py:7)'
    """
    frames = list(_FRAME.finditer(stack))
    if frames:
        frame = frames[-1]
        return f"{frame['name'].strip()} ({frame['file'].rsplit('/', 1)[-1]}:{frame['line']})"
    lines = [line.strip() for line in stack.splitlines() if line.strip()]
    return lines[-1][:120] if lines else ""
