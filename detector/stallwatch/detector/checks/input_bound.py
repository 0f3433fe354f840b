"""All ranks wait for data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import onset
from stallwatch.detector.checks.wording import seconds_text
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.windows import StepWindowObservation

_ONSET_WINDOWS = 3
"""Windows that are searched for where it began: one before, and two that show it."""


@dataclass(frozen=True, slots=True)
class InputBoundConfig:
    """Settings of the input check."""

    windows: int = 10
    """Windows of ten steps in a row in which ranks must wait."""
    skipped_windows: int = 2
    """More of them are asked for at the start of an attempt: loader workers start, files are opened."""
    least_seconds: float = 5.0
    """... and the time that these must take."""
    share: float = 0.25
    """Share of the step that is spent waiting for data: what a faster input would save, at most, is a third more throughput.
    Loaders that keep up leave a few percent, for taking a batch from a queue and moving it."""
    input_seconds: float = 0.01
    """... and at least so long: below that it is the script's own Python between steps (logging, progress bars, collating
    small batches), which takes milliseconds whatever the step takes."""
    ranks_share: float = 0.75
    """Share of the ranks that must wait so much; one rank alone is a straggler."""
    resolve_share: float = 0.8
    """The finding resolves when the share is below this part of the threshold ..."""
    resolve_windows: int = 6
    """... for so many windows in a row."""

    def __post_init__(self) -> None:
        for name in ("windows", "resolve_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("share", "ranks_share", "resolve_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share between 0 and 1, not {getattr(self, name)}")
        if not self.input_seconds >= 0 or not self.least_seconds >= 0:
            raise ValueError("input_seconds and least_seconds must not be negative")


@dataclass(slots=True)
class InputBound:
    """Finds that most ranks spend much of every step between the optimizer and the next forward: waiting for data.

    Judged by medians over the steps of a window, so evaluation and checkpoint pauses do not count, and over several windows.
    One rank alone that waits for data keeps the others waiting for it: that is a straggler.

    It cannot tell loading from the script's own work between steps, which is why milliseconds are let pass, and sees nothing
    where the time between steps is not measured.
    """

    kind: ClassVar[str] = "input_bound"
    consumes: ClassVar[tuple[type, ...]] = (StepWindowObservation,)

    config: InputBoundConfig = field(default_factory=InputBoundConfig)
    attempt: int = -1
    world_size: int = 0
    streak: int = 0
    """Windows in a row in which ranks wait."""
    streak_seconds: float = 0.0
    since: int = 0
    quiet: int = 0
    before: list[NDArray[np.float64]] = field(default_factory=list)
    """Waits of the steps of the latest windows."""
    before_steps: list[tuple[int, ...]] = field(default_factory=list)
    seen: int = 0
    """Windows of the attempt."""
    said_share: float = 0.0
    """Of the step, as last said; 0 while not firing."""

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if not isinstance(observation, StepWindowObservation):
            return None
        if (observation.attempt, observation.world_size) != (self.attempt, self.world_size):
            self.attempt, self.world_size = observation.attempt, observation.world_size
            self.streak = self.quiet = self.seen = 0
            self.said_share = 0.0
            self.before, self.before_steps = [], []
        self.seen += 1
        return self._judge(observation.steps[-1], observation)

    def _judge(self, step: int, window: StepWindowObservation) -> Verdict | None:
        config = self.config
        if window.input_share.size == 0 or not window.typical_seconds > 0:
            return None
        share = float(np.quantile(window.input_share, 1 - config.ranks_share))
        seconds = float(window.parts[0])
        if share >= config.share and seconds >= config.input_seconds:
            if not self.streak:
                self.since, self.streak_seconds = window.steps[0], 0.0
            self.streak += 1
            if self.streak == _ONSET_WINDOWS - 1:
                self.since = self._onset(window)
            self.streak_seconds += float(np.nansum(window.step_seconds))
            self.quiet = 0
        else:
            self.streak = 0
            self.quiet += share < config.resolve_share * config.share or seconds < config.input_seconds
        self.before = [*self.before[2 - _ONSET_WINDOWS :], window.input_seconds]
        self.before_steps = [*self.before_steps[2 - _ONSET_WINDOWS :], window.steps]
        if self.said_share:
            if self.quiet >= config.resolve_windows:
                self.said_share, self.quiet = 0.0, 0
                return Verdict(
                    kind=self.kind,
                    firing=False,
                    step=step,
                    reason=f"Ranks wait for data {100 * max(share, 0.0):.2g} % of a step: less than {100 * config.share:.2g} %.",
                )
            if not self.streak or 0.67 < share / self.said_share < 1.5:
                return None
        elif self.streak < self._needed() or self.streak_seconds < config.least_seconds:
            return None
        self.said_share = share
        return self._verdict(step, window, share)

    def _needed(self) -> int:
        from_start = self.seen - self.streak < self.config.skipped_windows
        return self.config.windows + (self.config.skipped_windows if from_start else 0)

    def _onset(self, window: StepWindowObservation) -> int:
        """Where it began, step by step: in the window before the first that shows it, or in that."""
        series = np.concatenate([*self.before, window.input_seconds])
        steps = [step for each in (*self.before_steps, window.steps) for step in each]
        return onset(series, steps)

    def _verdict(self, step: int, window: StepWindowObservation, share: float) -> Verdict:
        config = self.config
        typical = float(np.median(window.input_share))
        seconds, whole = float(window.parts[0]), window.typical_seconds
        waiting = int(np.count_nonzero(window.input_share >= config.share))
        count = window.input_share.size
        who = (
            "The rank waits"
            if count == 1
            else "All ranks wait"
            if waiting == count
            else f"Of {count} ranks, {waiting} wait"
        )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=self.since,
            since_step_error=5.0,
            confidence=0.9,
            score=share,
            threshold=config.share,
            reason=f"{who} for data: {seconds_text(seconds)} of each step of {seconds_text(whole)} "
            f"({100 * typical:.3g} %) since step {self.since:,}.",
            evidence={
                "input_seconds": seconds,
                "input_share": typical,
                "input_share_of_most_ranks": share,
                "step_seconds": whole,
                "ranks_waiting": waiting,
                "ranks_measured": count,
            },
            advice=(
                "More loader workers (num_workers), prefetch_factor and pinned memory; then look at storage and decoding.",
                f"Steps would be up to {100 * typical:.2g} % shorter if data were always there.",
            ),
        )
