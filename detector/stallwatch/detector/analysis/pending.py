"""Steps that some ranks have reported and others not yet: a dense window of (step, column, rank), consumed from below."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import Parallelism, StepBlock
from stallwatch.detector.core.observations import StepObservation

FLOAT_COLUMNS = (
    "loss_sum",
    "samples",
    "step_seconds",
    "input_seconds",
    "forward_seconds",
    "backward_seconds",
    "sync_seconds",
    "optimizer_seconds",
    "gradient_scale",
)
RATE_SUM = len(FLOAT_COLUMNS)
"""Row of the sum of a rank's learning rates, which is made here."""
INTEGER_COLUMNS = (
    "micro_batches",
    "ddp_iteration",
    "collectives",
    "gradient_fingerprint",
    "optimizer_steps",
    "produced_fingerprint",
    "gradient_lag",
    "input_fingerprint",
    "parameters_before",
    "parameters_after",
)
_NO_RANK = np.iinfo(np.int64).max


@dataclass(slots=True)
class PendingSteps:
    """The window. Row `start` holds step `base`; `used` rows follow, some of them perhaps empty."""

    ranks: int = 0
    base: int = 0
    """The next step to emit."""
    emitted: bool = False
    """Whether a step has been emitted: until then the window may still grow downwards."""
    start: int = 0
    used: int = 0
    floats: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, len(FLOAT_COLUMNS) + 1, 0)))
    integers: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((0, len(INTEGER_COLUMNS), 0), np.int64)
    )
    have: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    rates: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    rates_rank: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which rank the learning rates of a row are from: the lowest that reported it."""
    arrived: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """When the first rank reported the row; infinity while none has."""

    @property
    def top(self) -> int:
        """The highest step held; `base - 1` when none is."""
        return self.base + self.used - 1

    def resize(self, ranks: int) -> None:
        """Make room for this many ranks."""
        more = ranks - self.ranks
        if more > 0:
            self.floats = np.pad(self.floats, ((0, 0), (0, 0), (0, more)), constant_values=np.nan)
            self.integers = np.pad(self.integers, ((0, 0), (0, 0), (0, more)), constant_values=-1)
            self.have = np.pad(self.have, ((0, 0), (0, more)))
            self.ranks = ranks

    def insert(
        self, now: float, rank: int, block: StepBlock, watermark: int, window: int
    ) -> NDArray[np.bool_]:
        """Store a rank's steps; return which of them had not been seen before.

        Steps that were already emitted without this rank are counted as seen for the first time, and not stored. Of a block
        longer than the window only the newest steps are kept.
        """
        step = block.step
        ascending = step.size < 2 or bool(np.all(step[1:] > step[:-1]))
        fresh = np.ones(step.size, np.bool_)
        if not ascending:
            fresh[:] = False
            fresh[np.unique(step, return_index=True)[1]] = True
        if not self.emitted and self.used == 0:
            self.base = int(step.min())
        elif not self.emitted and step.min() < self.base:
            self._lower(max(int(step.min()), self.top - window + 1))
        late = step < self.base
        if late.any():
            # A step below the watermark was seen from this rank, or passed over by it: either way it is no news.
            fresh &= ~(late & (step <= watermark))
        highest = int(step.max())
        if highest < self.base:
            return fresh
        self._reach(highest, window)
        index = np.flatnonzero(fresh & ~late & (step >= self.base))
        seen = self.have[self.start + step[index] - self.base, rank]
        if seen.any():
            fresh[index[seen]] = False
            index = index[~seen]
        if index.size:
            self._store(
                now,
                rank,
                block,
                index,
                contiguous=ascending and highest - int(step[index[0]]) + 1 == index.size,
            )
        return fresh

    def _store(
        self, now: float, rank: int, block: StepBlock, index: NDArray[np.int64], *, contiguous: bool
    ) -> None:
        """Write the rows of a block that `index` names; `contiguous` when they are the last of it, without gaps."""
        rows = self.start + block.step[index] - self.base
        source: slice | NDArray[np.int64] = index
        target: slice | NDArray[np.int64] = rows
        if contiguous:
            source, target = slice(int(index[0]), None), slice(int(rows[0]), int(rows[-1]) + 1)
        self.have[target, rank] = True
        for place, name in enumerate(FLOAT_COLUMNS):
            column = getattr(block, name)
            if column.size:
                self.floats[target, place, rank] = column[source]
        for place, name in enumerate(INTEGER_COLUMNS):
            column = getattr(block, name)
            if column.size:
                self.integers[target, place, rank] = column[source]
        self.arrived[target] = np.minimum(self.arrived[target], now)
        if block.learning_rate.size:
            rates = block.learning_rate[source].reshape(rows.size, -1)
            self.floats[target, RATE_SUM, rank] = rates.sum(axis=1)
            self._insert_rates(rank, rows, rates)

    def emit(
        self, upper: int, attempt: int, world_size: int, parallelism: Parallelism
    ) -> Iterator[StepObservation]:
        """Take out the steps up to `upper`, in order; steps that no rank reported are passed over."""
        count = min(upper - self.base + 1, self.used)
        if count <= 0:
            return
        low, base = self.start, self.base
        high = low + count
        floats = self.floats[low:high].copy()
        integers = self.integers[low:high].copy()
        have = self.have[low:high].copy()
        rates = self.rates[low:high].tolist()
        self._consume(count)
        present = np.count_nonzero(have, axis=1).tolist()
        everyone = _everyone(have.shape[1])
        expects = parallelism is Parallelism.DATA_PARALLEL and world_size > 1
        for row in range(count):
            if not present[row]:
                continue
            if present[row] == len(everyone):
                ranks, f, i = everyone, floats[row], integers[row]
            else:
                index = np.flatnonzero(have[row])
                ranks, f, i = tuple(index.tolist()), floats[row][:, index], integers[row][:, index]
            yield StepObservation(
                base + row,
                attempt,
                world_size,
                ranks,
                f[0],
                f[1],
                i[0],
                tuple(rate for rate in rates[row] if rate == rate),  # noqa: PLR0124 - NaN pads missing groups
                f[2],
                f[3],
                f[4],
                f[5],
                f[6],
                f[7],
                i[1],
                i[2],
                i[3],
                expects,
                parallelism,
                i[4],
                i[5],
                i[6],
                f[8],
                i[7],
                f[9],
                i[8],
                i[9],
            )

    def oldest_arrival(self) -> float | None:
        """When the oldest held step came first; None when none is held."""
        if not self.used:
            return None
        held = self.arrived[self.start : self.start + self.used]
        first = float(held.min())
        return first if np.isfinite(first) else None

    def latest_arrived_before(self, now: float) -> int:
        """The highest held step that came before `now`."""
        rows = np.flatnonzero(self.arrived[self.start : self.start + self.used] < now)
        return self.base + int(rows[-1]) if rows.size else self.base - 1

    def shift(self, seconds: float) -> None:
        """Move the arrival times, see `Aligner.shift`."""
        self.arrived += seconds

    def compact(self) -> None:
        """Drop the room that is not used, for a small snapshot."""
        keep = slice(self.start, self.start + self.used)
        self.floats, self.integers = self.floats[keep].copy(), self.integers[keep].copy()
        self.have, self.rates = self.have[keep].copy(), self.rates[keep].copy()
        self.rates_rank, self.arrived = self.rates_rank[keep].copy(), self.arrived[keep].copy()
        self.start = 0

    def _insert_rates(self, rank: int, rows: NDArray[np.int64], rates: NDArray[np.float64]) -> None:
        groups = rates.shape[1]
        if groups > self.rates.shape[1]:
            self.rates = np.pad(
                self.rates, ((0, 0), (0, groups - self.rates.shape[1])), constant_values=np.nan
            )
        lower = rank < self.rates_rank[rows]
        if lower.any():
            target = rows[lower]
            self.rates[target] = np.nan
            self.rates[target, :groups] = rates[lower]
            self.rates_rank[target] = rank

    def _reach(self, step: int, window: int) -> None:
        """Make room up to `step`, growing the arrays when the window has grown."""
        needed = step - self.base + 1
        if needed <= self.used:
            return
        if self.start + needed > self.arrived.size:
            # A jump far ahead would need rows for steps that nobody has: the window never holds more than twice its size.
            if needed > 2 * window and self.used == 0:
                self.base = step - window + 1
                needed = window
            self._allocate(max(needed, self.used))
        self.used = max(self.used, needed)

    def _allocate(self, needed: int) -> None:
        room = max(64, 1 << (needed - 1).bit_length())
        old = slice(self.start, self.start + self.used)

        def moved(array: NDArray[np.generic], fill: float) -> NDArray[np.generic]:
            bigger = np.full((room, *array.shape[1:]), fill, array.dtype)
            bigger[: self.used] = array[old]
            return bigger

        self.floats = moved(self.floats, np.nan)  # type: ignore[assignment]
        self.integers = moved(self.integers, -1)  # type: ignore[assignment]
        self.have = moved(self.have, 0)  # type: ignore[assignment]
        self.rates = moved(self.rates, np.nan)  # type: ignore[assignment]
        self.rates_rank = moved(self.rates_rank, _NO_RANK)  # type: ignore[assignment]
        self.arrived = moved(self.arrived, np.inf)  # type: ignore[assignment]
        self.start = 0

    def _lower(self, base: int) -> None:
        """Let the window begin earlier: nothing was emitted yet."""
        more = self.base - base
        if more <= 0:
            return
        self._allocate(self.used + more)
        for array in (self.floats, self.integers, self.have, self.rates, self.rates_rank, self.arrived):
            array[more : more + self.used] = array[: self.used].copy()
        self.used += more
        self.base = base
        self._clear(0, more)

    def _clear(self, low: int, high: int) -> None:
        self.floats[low:high] = np.nan
        self.integers[low:high] = -1
        self.have[low:high] = False
        self.rates[low:high] = np.nan
        self.rates_rank[low:high] = _NO_RANK
        self.arrived[low:high] = np.inf

    def _consume(self, count: int) -> None:
        self._clear(self.start, self.start + count)
        self.base += count
        self.used -= count
        self.start = self.start + count if self.used else 0
        self.emitted = True


@functools.lru_cache(maxsize=64)
def _everyone(count: int) -> tuple[int, ...]:
    """All ranks; the same object every time, which comparisons are fast on."""
    return tuple(range(count))
