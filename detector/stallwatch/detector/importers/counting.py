"""Numbers that count: which one counts up through a file, which starts again in each epoch, which is averaged over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stallwatch.detector.importers import lines
from stallwatch.detector.importers.kinds import TOTAL, Kind
from stallwatch.detector.importers.log import Floats, Integers

# A counter moves if it takes at least this share of the different values that there could be.
MOVING_SHARE = 0.8
# Ranks' lines come interleaved; more ranks than this print no log in common.
MOST_RANKS = 4096


@dataclass(slots=True)
class Counter:
    """A number that counts, at certain rows; NaN where it is not there."""

    name: str
    value: Floats
    total: float = float("nan")
    carried: bool = False
    """Whether it stands in other lines before."""

    @property
    def known(self) -> Floats:
        """The values that are there."""
        return self.value[np.isfinite(self.value)]


def moves_at_all(value: Floats) -> bool:
    """Whether it takes more than one value, or has only one."""
    known = value[np.isfinite(value)]
    return known.size == 1 or (known.size > 1 and bool(np.any(known != known[0])))


def filled(value: Floats) -> Floats:
    """Where a counter is missing it stands where it last stood."""
    known = np.flatnonzero(np.isfinite(value))
    if not known.size:
        return np.zeros(value.size)
    place = np.maximum(np.searchsorted(known, np.arange(value.size), side="right") - 1, 0)
    return value[known[place]]


def count_falls(value: Floats) -> int:
    """How often it goes back."""
    return int(np.sum(np.diff(value[np.isfinite(value)]) < 0))


def distinct_share(counter: Counter) -> float:
    """Different values a value: 1 where each row has its own."""
    known = counter.known
    # A counter that never falls needs no sorting.
    moves = np.diff(known)
    if moves.size and moves.min() >= 0:
        return (int(np.count_nonzero(moves)) + 1) / known.size
    return np.unique(known).size / max(known.size, 1)


def are_whole(value: Floats) -> bool:
    """Whether all are whole numbers."""
    known = value[np.isfinite(value)]
    return bool(np.all(known == np.floor(known)))


def global_counter(counters: Sequence[Counter], every: Sequence[Counter]) -> Counter | None:
    """A number that counts up through the whole file; a few steps back are restarts."""
    found = []
    for counter in counters:
        if lines.is_epoch(counter.name) or not are_whole(counter.value) or not moves_at_all(counter.value):
            continue
        if counter.name.startswith("#") and not np.isfinite(counter.total):
            continue
        falls = count_falls(counter.value)
        if falls and starts_again(counter, every):
            continue
        least = MOVING_SHARE if counter.carried else 0.3 if counter.name.startswith("#") else 1 / MOST_RANKS
        if distinct_share(counter) < least and counter.known.size > 2:
            continue
        found.append(((falls > 0, counter.name.startswith("#"), -distinct_share(counter)), counter))
    return min(found, key=lambda each: each[0])[1] if found else None


def starts_again(counter: Counter, counters: Sequence[Counter]) -> bool:
    """Whether it starts again in each epoch, rather than where a job was resumed."""
    value = filled(counter.value)
    falls = np.flatnonzero(np.diff(value) < 0) + 1
    for other in counters:
        if other is not counter and is_outer(other) and not count_falls(other.value):
            outer = filled(other.value)
            if np.mean(outer[falls] > outer[falls - 1]) >= 0.8:
                return True
    low, high = value.min(), value.max()
    near_start = float(np.mean(value[falls] <= low + 0.25 * (high - low)))
    at_end = float(np.mean(value[falls - 1] >= high - 0.25 * (high - low)))
    return falls.size >= 2 and near_start >= 0.8 and at_end >= 0.8


def is_outer(counter: Counter) -> bool:
    """Whether it may count epochs, or steps around others."""
    return lines.is_epoch(counter.name) or counter.name.startswith("#") or lines.is_step(counter.name)


def counted_through(
    counters: Sequence[Counter], every: Sequence[Counter], notes: list[str]
) -> tuple[str, Floats] | None:
    """A counter within each epoch, counted through: epoch x total + counter."""
    for counter in counters:
        if lines.is_epoch(counter.name) or not moves_at_all(counter.value) or not are_whole(counter.value):
            continue
        if counter.name.startswith("#") and not np.isfinite(counter.total) and len(every) < 2:
            continue
        value = filled(counter.value)
        falls = np.flatnonzero(np.diff(value) < 0) + 1
        if counter.carried and np.mean(np.diff(value) != 0) < MOVING_SHARE:
            continue
        outer = next(
            (o for o in every if o is not counter and lines.is_epoch(o.name) and goes_on(o, falls)), None
        )
        outer = outer or next(
            (o for o in every if o is not counter and is_outer(o) and goes_on(o, falls)), None
        )
        if outer is None and not (falls.size and starts_again(counter, counters)):
            continue
        step = np.diff(value)
        pace = float(np.median(step[step > 0])) if np.any(step > 0) else 1.0
        length = (
            counter.total
            if np.isfinite(counter.total)
            else value.max() + (pace if value.min() < pace else 0.0)
        )
        if outer is not None:
            epoch = filled(outer.value)
            base = 0.0 if epoch.min() < 1 else 1.0
            label = label_of(counter)
            notes.append(
                f"Steps are ({label_of(outer)} - {base:.0f}) x {length:,.0f} + {label}."
                if base
                else f"Steps are {label_of(outer)} x {length:,.0f} + {label}."
            )
            return label, (np.floor(epoch) - base) * length + value
        number = np.zeros(value.size)
        number[falls] = 1
        notes.append(
            f"{label_of(counter)} starts again {falls.size} times: steps are counted through, {length:,.0f} each time."
        )
        return label_of(counter), np.cumsum(number) * length + value
    return None


def goes_on(outer: Counter, falls: Integers) -> bool:
    """Whether this counter goes on where another one starts again."""
    value = filled(outer.value)
    if count_falls(outer.value) or not are_whole(outer.value):
        return False
    if not falls.size:
        return lines.is_epoch(outer.name) and not moves_at_all(outer.value)
    changes = int(np.sum(np.diff(value) != 0))
    return bool(np.mean(value[falls] > value[falls - 1]) >= 0.8) and changes <= 2 * falls.size


def label_of(counter: Counter) -> str:
    """Its name for a note."""
    return "the counter" if counter.name.startswith("#") else counter.name


def epoch_counter(counters: Sequence[Counter]) -> Counter | None:
    """A number that counts epochs or parts of them."""
    found = [c for c in counters if lines.is_epoch(c.name) and moves_at_all(c.value)]
    return max(found, key=distinct_share) if found else None


def is_fine(counter: Counter) -> bool:
    """Whether most rows have a value of their own."""
    return distinct_share(counter) >= MOVING_SHARE


def plain_counter(counters: Sequence[Counter]) -> Counter | None:
    """A number without a name that goes up in every row."""
    found = [
        c
        for c in counters
        if c.name.startswith("#") and moves_at_all(c.value) and not count_falls(c.value) and is_fine(c)
    ]
    return found[0] if found else None


def with_record(at: Integers, rows: Integers) -> Integers:
    """Lines that follow each record, one for one, belong to it: `loss: 2.31` and below it `lr: 0.1`."""
    if (
        not at.size
        or abs(at.size - rows.size) > 0.1 * rows.size + 1
        or np.isin(at[:1], rows).all()
        or at[0] < rows[0]
    ):
        return at
    place = np.searchsorted(rows, at, side="right") - 1
    return rows[place] if np.unique(place).size == place.size else at


def is_running_mean(place: Floats, value: Floats, *, expected: bool) -> bool:
    """Whether a series is averaged since the start of each epoch: what is new then counts less and less.

    The mean of k values moves by 1/k of what is new. So in the first half of an epoch it moves more than in the second, and
    where the next epoch begins it jumps; a series of single values moves as much everywhere. The first epoch does not count:
    there the loss itself falls fastest.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(place) < 0) + 1, [place.size]])
    ratios, jumps = [], []
    for start, stop in zip(starts[1:-1].tolist(), starts[2:].tolist(), strict=True):
        moves = np.abs(np.diff(value[start:stop]))
        if moves.size >= 8 and np.isfinite(moves).all():
            half = moves.size // 2
            late = max(float(moves[half:].mean()), 1e-300)
            ratios.append(float(moves[:half].mean()) / late)
            jumps.append(abs(float(value[start] - value[start - 1])) / late)
    enough = 2 if expected or place.size >= 40 * (len(starts) - 1) else 4
    return len(ratios) >= enough and bool(np.median(ratios) >= _AVERAGED and np.median(jumps) >= _JUMPS)


_JUMPS = 2.5
"""From a mean of k values to a single one it jumps some k / 2 times as far as it last moved; single values once as far."""
_AVERAGED = 1.8
"""For 10 values an epoch the ratio of a running mean is 2.5 and that of single values 1 with a spread of 0.4 an epoch."""


def labels_are_ranks(kind: Kind) -> bool:
    """Whether the number before the colon is the task that printed the line: it does not count, and something else does."""
    counter = next((n for n in kind.names if lines.is_step(n) and not n.endswith(TOTAL)), None)
    if not kind.labelled or counter is None:
        return False
    label, step = kind.column("#1"), kind.column(counter)
    ranks = np.unique(label)
    if (
        ranks.size < 2
        or ranks.size > MOST_RANKS
        or not np.array_equal(ranks, np.floor(ranks))
        or not np.any(np.diff(label) < 0)
    ):
        return False
    order = np.lexsort((np.arange(label.size), label))
    same = label[order][1:] == label[order][:-1]
    return bool(np.mean(np.diff(step[order])[same] > 0) > 0.9)


def new_runs(counter: Counter, loss: Floats) -> list[int]:
    """Where a run begins anew: the counter goes back to its first value, and the loss to about its first level."""
    value = filled(counter.value)
    forward = np.diff(value)
    pace = float(np.median(forward[forward > 0])) if np.any(forward > 0) else 0.0
    found: list[int] = []
    start = 0
    for at in (np.flatnonzero(forward < 0) + 1).tolist():
        if value[at] > value[0] + 1.5 * pace or at - start < _SHORTEST_RUN or value.size - at < _SHORTEST_RUN:
            continue
        first, before, now = (
            float(np.median(part)) for part in (loss[:3], loss[at - 3 : at], loss[at : at + 3])
        )
        if abs(now - first) < 0.5 * abs(first - before):
            found.append(at)
            start = at
    return found


_SHORTEST_RUN = 5
"""Records of which a run is at least made, to be one of its own."""
