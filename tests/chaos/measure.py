"""What came of a fault: steps lost and counted twice, parameters, step times, findings; and whether that is good enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from chaos.fault import Fault, Loss
from chaos.pair import TrainingJob
from chaos.scene import RANKS, Scene

WARMUP_STEPS = 20
"""Left out of step times."""
STANDSTILL = frozenset({"hang", "rank_lost"})


@dataclass(slots=True)
class Outcome:
    """One fault and what it did."""

    fault: Fault
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Findings before it, by id."""
    steps: int = 0
    """Rank-steps of the watched job's last attempt, all of which should have come."""
    lost: int | None = None
    dropped: int = 0
    """Of the lost ones, those that the agents counted and the detector shows."""
    doubled: int | None = None
    repeated: int = 0
    """Batches that came again and changed nothing."""
    identical: bool | None = None
    slowdown: float | None = None
    """Median step time of the watched job over that of its twin."""
    longer: float | None = None
    """The same of the whole time from the first step to the last."""
    recovery_seconds: float | None = None
    kept: int = 0
    found: int = 0
    invented: tuple[str, ...] = ()
    """Findings that say that ranks stood still or were lost, when they were not."""
    trouble: str = ""
    wall_seconds: float = 0.0

    def problems(self) -> list[str]:
        """Every bar that it breaks."""
        if self.trouble:
            return [self.trouble]
        found = []
        if self.identical is not True:
            found.append("the parameters or losses differ from those of the job without an agent")
        if self.fault.loss is Loss.ALL:
            return found
        lost = self.lost or 0
        if self.doubled:
            found.append(f"{self.doubled} steps were counted twice")
        if lost and self.fault.loss is Loss.NONE:
            found.append(f"{lost} of {self.steps} steps were lost")
        if lost > self.dropped and self.fault.loss is Loss.COUNTED:
            found.append(f"{lost} steps were lost and only {self.dropped} of them counted as dropped")
        if self.kept < self.found:
            found.append(f"{self.found - self.kept} of {self.found} findings were not kept")
        if not self.found:
            found.append("there was no finding to keep")
        if self.invented:
            found.append(f"findings that are not true: {', '.join(self.invented)}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("steps", "lost", "dropped", "doubled", "repeated", "identical", "slowdown", "longer",
                 "recovery_seconds", "kept", "found", "trouble", "wall_seconds")  # fmt: skip
        return {
            "fault": self.fault.name,
            "invented": list(self.invented),
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], fault: Fault) -> Outcome:
        """What `as_dict` gave, of a fault that still exists."""
        values = {name: value for name, value in row.items() if name not in {"fault", "invented"}}
        return cls(fault, invented=tuple(row["invented"]), **values)


def measure(scene: Scene, outcome: Outcome, stop: int) -> None:
    """Fill in the outcome of a fault whose jobs have ended after `stop` steps."""
    outcome.identical = _identical(*scene.jobs)
    outcome.slowdown, outcome.longer = _slowdown(*scene.jobs)
    results = scene.watched.notes("result")
    expected = {rank: stop - result["first"] for rank, result in results.items()}
    outcome.steps = sum(expected.values())
    if scene.fault.loss is Loss.ALL:
        outcome.lost = outcome.steps
        outcome.doubled = 0
        return
    shown = {each["rank"]: each for each in scene.service.get(scene.path("/ranks"))["ranks"]}
    received = {rank: shown[rank]["steps_received"] if rank in shown else 0 for rank in expected}
    outcome.lost = sum(max(expected[rank] - received[rank], 0) for rank in expected)
    outcome.dropped = sum(each["dropped_steps"] for each in shown.values())
    outcome.repeated = sum(each["duplicate_batches"] for each in shown.values())
    outcome.doubled = sum(max(received[rank] - expected[rank], 0) for rank in expected) + _counted_too_often(
        scene
    )
    after = scene.findings()
    outcome.found = len(outcome.before)
    outcome.kept = sum(_is_kept(finding, after.get(identity)) for identity, finding in outcome.before.items())
    if not scene.fault.on_ranks:
        new = {each["kind"] for identity, each in after.items() if identity not in outcome.before}
        outcome.invented = tuple(sorted(new & STANDSTILL))


def _identical(watched: TrainingJob, twin: TrainingJob) -> bool:
    """Whether both jobs ended with the same parameters and optimizer state, and had the same loss at each step, bit for bit."""
    ends = [job.notes("result") for job in (watched, twin)]
    if any(len(each) != RANKS for each in ends):
        return False
    same = all(ends[0][rank]["sha256"] == ends[1][rank]["sha256"] for rank in range(RANKS))
    with_agent, without = watched.steps(), twin.steps()
    for key in with_agent.keys() & without.keys():
        # Attempts that were killed may have come a step further in one of the two.
        common = with_agent[key].keys() & without[key].keys()
        same = same and all(with_agent[key][step][0] == without[key][step][0] for step in common)
    return same and {rank for _, rank in with_agent} == set(range(RANKS))


def _slowdown(watched: TrainingJob, twin: TrainingJob) -> tuple[float | None, float | None]:
    with_agent, without = watched.steps(), twin.steps()
    seconds: tuple[list[float], list[float]] = ([], [])
    for key in with_agent.keys() & without.keys():
        first = min(with_agent[key], default=0) + WARMUP_STEPS
        for step in with_agent[key].keys() & without[key].keys():
            if step >= first:
                for side, steps in enumerate((with_agent[key], without[key])):
                    seconds[side].append(steps[step][1])
    if not seconds[0]:
        return None, None
    return median(seconds[0]) / median(seconds[1]), sum(seconds[0]) / sum(seconds[1])


def _counted_too_often(scene: Scene) -> int:
    """Steps in the analysis' own histogram of step times beyond those that ranks have taken, over all attempts."""
    taken = sum(len(steps) for steps in scene.watched.steps().values())
    counted = scene.service.metric("stallwatch_step_seconds_count", run=scene.run, phase="optimizer")
    return max(int(counted or 0) - taken, 0)


def _is_kept(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> bool:
    same: Iterable[str] = ("kind", "since_step", "detected_step")
    return after is not None and all(before[name] == after[name] for name in same)
