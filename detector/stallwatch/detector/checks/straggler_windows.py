"""Windows of steps, reduced to what each rank costs the others in each, and how noisy that is in this run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import (
    SIGMA,
    Matrix,
    beyond_others,
    complete,
    peers,
    trimmed_mean,
)
from stallwatch.detector.core.observations import StepObservation

_STEP, _SYNC, _INPUT, _FORWARD, _BACKWARD, _OPTIMIZER = range(6)
_COLUMNS = 6
PHASES = ("input", "compute", "optimizer")
_LEARNED_BLOCKS = 32
_ENOUGH_BLOCKS = 4
_LATEST_BLOCKS = 2
_OF_BLOCK = 8
_UNKNOWN_FACTOR = 1.5
"""Windows differ more than the steps within them say, up to so much on machines measured, until a run has shown how much."""


@dataclass(slots=True)
class Look:
    """One window, judged; arrays have one value a rank of the world, NaN for those that did not report all of it."""

    steps: list[int]
    step_seconds: float
    """Median length of its steps."""
    seconds: float
    """Wall time it covers."""
    by_wait: bool
    excess: Matrix
    """What each rank costs the others, per step, shape (steps, world)."""
    mean: NDArray[np.float64]
    """Its mean without the extremes."""
    error: float
    """Standard error of such a mean as the steps within the window have it, typical over ranks."""
    lead: NDArray[np.float64]
    """Share of the steps on which the rank was behind the median of its peers."""
    phases: Matrix
    """What its own phases take longer than those of its peers, shape (phases, world)."""
    arrival: Matrix
    """When each rank was ready, less the first of its peers, per step: what a step without it is judged by."""


def _window() -> Matrix:
    return np.zeros((0, _COLUMNS, 0))


def _prints() -> NDArray[np.int64]:
    return np.zeros((0, 0), np.int64)


@dataclass(slots=True)
class Windows:
    """Collects steps into windows."""

    world_size: int = 0
    filled: int = 0
    window: Matrix = field(default_factory=_window)
    """The steps of the current window, shape (steps, columns, ranks); NaN where a rank did not report."""
    prints: NDArray[np.int64] = field(default_factory=_prints)
    """Gradient fingerprints of the same steps, which tell who shares a gradient with whom."""
    numbers: list[int] = field(default_factory=list)

    def reset(self, world_size: int, steps: int) -> None:
        """Another attempt, or another world."""
        self.world_size = world_size
        self.window = np.full((steps, _COLUMNS, world_size), np.nan)
        self.prints = np.full((steps, world_size), -1, np.int64)
        self.filled, self.numbers = 0, []

    def store(self, step: StepObservation) -> bool:
        """Take a step; whether the window is full."""
        row, prints = self.window[self.filled], self.prints[self.filled]
        columns = (
            step.step_seconds,
            step.sync_seconds,
            step.input_seconds,
            step.forward_seconds,
            step.backward_seconds,
            step.optimizer_seconds,
        )
        if len(step.ranks) == self.world_size:
            for index, column in enumerate(columns):
                row[index] = column
            prints[:] = step.gradient_fingerprint
        else:
            row[:], prints[:] = np.nan, -1
            where = np.array([rank for rank in step.ranks if rank < self.world_size], np.int64)
            for index, column in enumerate(columns):
                row[index, where] = column[: where.size]
            prints[where] = step.gradient_fingerprint[: where.size]
        self.filled += 1
        self.numbers.append(step.step)
        return self.filled == len(self.window)

    def look(self, *, sharded: bool) -> Look | None:
        """Judge a full window and begin the next; None when too little of it can be compared."""
        numbers, self.numbers, self.filled = self.numbers, [], 0
        rows, ranks = complete(self.window[:, _STEP], None if sharded else self.window[:, _SYNC])
        if len(rows) < max(len(self.window) // 2, 4) or ranks.size < 2:
            return None
        full = self.window[np.ix_(rows, np.arange(_COLUMNS), ranks)]
        lengths = np.median(full[:, _STEP], axis=1)
        seconds = float(np.median(lengths))
        if not seconds > 0:
            return None
        groups = peers(self.prints[np.ix_(rows, ranks)])
        waits = full[:, _SYNC]
        by_wait = (
            not sharded and bool(np.isfinite(waits).all()) and float(waits.max(initial=0.0)) > 1e-3 * seconds
        )
        if by_wait:
            own = -waits
        else:
            own = full[:, _INPUT] if sharded else full[:, _INPUT] + full[:, _FORWARD]
            if not np.isfinite(own).all():
                return None
        excess = _beyond_peers(own, groups)
        spread = SIGMA * np.median(np.abs(excess - np.median(excess, axis=0)), axis=0)
        phases = np.stack(
            [
                trimmed_mean(full[:, _INPUT]),
                trimmed_mean(full[:, _FORWARD] + full[:, _BACKWARD]),
                trimmed_mean(full[:, _OPTIMIZER]),
            ]
        )
        return Look(
            steps=[numbers[row] for row in rows.tolist()],
            step_seconds=seconds,
            seconds=float(lengths.sum()),
            by_wait=by_wait,
            excess=self._whole(excess, ranks),
            mean=self._whole(trimmed_mean(excess)[None], ranks)[0],
            # The middle three fifths have 1.06 times the standard error that all of them would have, were they normal.
            error=1.06 * float(np.median(spread)) / len(rows) ** 0.5,
            lead=self._whole((excess > 0).mean(axis=0)[None], ranks)[0],
            phases=self._whole(np.nan_to_num(_beyond_peers(phases, groups)), ranks),
            arrival=self._whole(own, ranks),
        )

    def _whole(self, values: Matrix, ranks: NDArray[np.int64]) -> Matrix:
        if ranks.size == self.world_size:
            return values
        whole = np.full((len(values), self.world_size), np.nan)
        whole[:, ranks] = values
        return whole


def _beyond_peers(values: Matrix, groups: list[NDArray[np.int64]]) -> Matrix:
    if len(groups) == 1:
        return beyond_others(values)
    beyond = np.empty_like(values)
    for members in groups:
        beyond[:, members] = beyond_others(values[:, members])
    return beyond


def saved_seconds(look: Look, ranks: tuple[int, ...]) -> float:
    """What a step would be shorter without some ranks: how much later the last of them was ready than the last of the rest."""
    out = np.zeros(look.arrival.shape[1], np.bool_)
    out[list(ranks)] = True
    if out.all() or not np.isfinite(look.arrival[:, ~out]).any():
        return 0.0
    later = np.fmax.reduce(look.arrival, axis=1) - np.fmax.reduce(look.arrival[:, ~out], axis=1)
    return float(trimmed_mean(later[:, None])[0])


@dataclass(slots=True)
class Noise:
    """How much the means of several windows of a rank differ from those of as many windows before, in this run."""

    windows: int = 0
    """Windows since the latest comparison."""
    differences: list[list[float]] = field(default_factory=list)
    """Of each pair of blocks, oldest first: the differences of at most eight ranks, or quantiles of them over all ranks, as
    shares of the step."""

    def learn(self, past: list[NDArray[np.float64]], block: int, step_seconds: float) -> None:
        """A window has been added to `past`; blocks that follow one another are compared."""
        self.windows += 1
        if self.windows < block or len(past) < 2 * block:
            return
        self.windows = 0
        now, before = np.mean(past[-block:], axis=0), np.mean(past[-2 * block : -block], axis=0)
        change = np.abs(now - before) / step_seconds
        change = change[np.isfinite(change)]
        if change.size > _OF_BLOCK:
            change = np.quantile(change, (np.arange(_OF_BLOCK) + 0.5) / _OF_BLOCK)
        if change.size:
            self.differences = [*self.differences[1 - _LEARNED_BLOCKS :], change.tolist()]

    def of_block(self, within: float, latest: NDArray[np.float64], step_seconds: float) -> float:
        """Standard error of the mean of a block.

        Args:
            within: What the spread inside windows says of it.
            latest: Means of the windows of the latest block, shape (windows, ranks).
            step_seconds: Length of a step now.
        """
        # What begins now must not count as noise, and with two ranks it is half of all that is seen.
        older = [value for each in self.differences[:-_LATEST_BLOCKS] for value in each]
        if len(self.differences) < _ENOUGH_BLOCKS + _LATEST_BLOCKS:
            # Steps that follow one another slowly differ little within a window, and windows then differ more.
            complete_ones = latest[:, np.isfinite(latest).all(axis=0)]
            spread = complete_ones.std(axis=0) if complete_ones.size else np.zeros(1)
            between = float(np.median(spread)) / max(len(latest) - 1, 1) ** 0.5
            return float(_UNKNOWN_FACTOR * max(within, between))
        # The tails of what is usual count as well as its middle: 0.9 of a normal distribution's lie within 1.645.
        middle, tail = np.quantile(older, (0.5, 0.9)).tolist()
        learned = max(SIGMA * middle, tail / 1.645) / 2**0.5 * step_seconds
        # Few blocks may agree by chance.
        return float(max(learned, 0.7 * within))
