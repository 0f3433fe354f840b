"""What there is to say about one log."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.learning import STOPPED_STATES, LossAssessment
from stallwatch.detector.core.views import RuleView
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.report.elapsed import at_step, elapsed_seconds

SEVERITIES = ("info", "warning", "critical")


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A state of the loss, as it was called live; it lasts until the next entry."""

    state: str
    from_step: float
    """Where it was called, on the axis of the log, knowing only what came before."""
    since_step: float
    """Estimate of where it began."""
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """Where the smoothed loss stood at one look."""

    step: float
    level: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on one log; steps are on the axis of the log."""

    log: TrainingLog
    states: tuple[StateEntry, ...]
    """The first one is `warming_up`, from the first point on."""
    findings: tuple[Finding, ...]
    """In the order in which they were opened, also those that were resolved."""
    final: LossAssessment | None
    """The last look; None when there were too few points for one."""
    final_step: float
    horizon_end: float | None
    """Where the forecast of the last look ends; None when there is none, or none that still holds."""
    looks: tuple[Look, ...]
    summary_reason: str
    """Why the run is in its last state."""
    rules: tuple[RuleView, ...] = ()
    """What the rules of another tool said, where they were asked for."""

    @property
    def state(self) -> str:
        """The state at the end of the log."""
        return self.states[-1].state

    @property
    def first_step(self) -> float:
        """Where the judged series begins."""
        steps = self.log.points.step
        return float(steps[0]) if steps.size else 0.0

    @property
    def last_step(self) -> float:
        """How far the log goes: the highest step of the judged series."""
        steps = self.log.points.step
        return float(steps.max()) if steps.size else 0.0

    @property
    def flat_stretches(self) -> tuple[tuple[float, float], ...]:
        """From where learning had stopped, by the estimate of its onset, to where it was called going again."""
        stretches: list[tuple[float, float]] = []
        for index, entry in enumerate(self.states):
            if entry.state not in STOPPED_STATES:
                continue
            end = self.states[index + 1].from_step if index + 1 < len(self.states) else self.last_step
            start = max(entry.since_step, self.first_step)
            if stretches and start <= stretches[-1][1]:
                stretches[-1] = (stretches[-1][0], max(end, stretches[-1][1]))
            else:
                stretches.append((start, end))
        return tuple(stretches)

    @property
    def flat_share(self) -> float:
        """Share of the run spent without learning."""
        span = self.last_step - self.first_step
        return sum(end - start for start, end in self.flat_stretches) / span if span > 0 else 0.0

    @property
    def flat_hours(self) -> float | None:
        """Wall time spent without learning; None when the log has no times."""
        points = self.log.points
        elapsed = elapsed_seconds(points.wall_time)
        if elapsed is None:
            return None
        at = at_step(points.step, elapsed)
        return sum(at(end) - at(start) for start, end in self.flat_stretches) / 3600

    @property
    def hours(self) -> float | None:
        """Wall time from the first point to the last."""
        elapsed = elapsed_seconds(self.log.points.wall_time)
        return None if elapsed is None else float(elapsed[-1]) / 3600

    @property
    def worst(self) -> Finding | None:
        """The most severe finding, the one still firing first."""
        ranked = sorted(self.findings, key=lambda f: (f.status != "firing", -SEVERITIES.index(f.severity)))
        return ranked[0] if ranked else None

    @property
    def alarming(self) -> bool:
        """Whether anything of severity warning or above was found."""
        return any(SEVERITIES.index(finding.severity) >= 1 for finding in self.findings)
