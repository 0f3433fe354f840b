"""The axis of a log: optimizer steps where it counts them, epochs where it has nothing finer, records otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from stallwatch.detector.importers import columns as by_name
from stallwatch.detector.importers.errors import LogError
from stallwatch.detector.importers.log import Floats, Integers

if TYPE_CHECKING:
    from stallwatch.detector.importers.columns import Selection
    from stallwatch.detector.importers.table import Table


@dataclass(frozen=True, slots=True)
class Axis:
    """Where each row of a log stands."""

    name: Literal["step", "epoch"]
    column: str | None
    """The column it was read from; None when rows were counted."""
    value: Floats
    """One a row, never NaN."""
    notes: tuple[str, ...] = ()


def read_axis(table: Table, selection: Selection, judged: Integers) -> Axis:
    """A step column that moves, else an epoch column that moves, else the number of the row.

    `judged` are the rows of the series that is judged: where other rows count something else, theirs hold.
    """
    names = list(table.columns)
    steps = [selection.step] if selection.step is not None else by_name.step_candidates(names)
    epochs = [selection.epoch] if selection.epoch is not None else by_name.epoch_candidates(names)
    epoch = next((name for name in epochs if _moves(table, name)), None)
    # Whoever names the epoch column and not the step column asks for that axis.
    if selection.epoch is None or selection.step is not None:
        for name in steps:
            if _moves(table, name):
                step = _positions(table, name)
                other = _counts_otherwise(step, judged)
                if other:
                    step = _of_rows(step, judged)
                value, notes = _unwrapped(step, _positions(table, epoch), name)
                if other:
                    value = _of_rows(value, judged)
                    notes = (
                        *notes,
                        f"In other rows column '{name}' counts something else: they stand where they came.",
                    )
                return Axis("step", name, _filled(value), notes)
    if epoch is not None:
        return Axis("epoch", epoch, _filled(_positions(table, epoch)))
    for name in steps[:1] + epochs[:1]:
        if name in table.unreadable:
            raise LogError(table.unreadable[name])
    note = "There is no column that counts steps or epochs: records are counted, from 0."
    return Axis("step", None, np.arange(table.rows, dtype=np.float64), (note,))


def _moves(table: Table, name: str) -> bool:
    if not table.has(name):
        return False
    values = table.columns[name].value
    finite = values[np.isfinite(values)]
    # A log of one row has nothing that could move.
    return finite.size > 0 and (table.rows == 1 or finite.size < 2 or bool(np.any(finite != finite[0])))


def _positions(table: Table, name: str | None) -> Floats:
    """The last position before each row, NaN where there is none; infinity is no position."""
    value = table.dense(name)
    known = np.flatnonzero(np.isfinite(value))
    if not known.size:
        return np.full(value.size, np.nan)
    place = np.searchsorted(known, np.arange(value.size), side="right") - 1
    return np.where(place >= 0, value[known[np.maximum(place, 0)]], np.nan)


def _counts_otherwise(step: Floats, judged: Integers) -> bool:
    """Whether the column counts something else in the rows beside those that are judged: batches of a validation, say.

    There it would go back between two judged rows, or ahead of both.
    """
    own = step[judged]
    others = np.setdiff1d(np.arange(step.size), judged)
    if judged.size < 2 or not others.size:
        return False
    forward = np.diff(own)
    pace = float(np.median(forward[forward > 0])) if np.any(forward > 0) else 0.0
    after = np.searchsorted(judged, others)
    between = (after > 0) & (after < judged.size)
    if not between.any():
        return False
    low, high, value = own[after[between] - 1], own[after[between]], step[others[between]]
    ahead = value > np.maximum(low, high) + 1.5 * pace
    back = (value < low - 1.5 * pace) & (high >= low)
    return bool(np.mean(ahead | back) >= 0.5)


def _of_rows(value: Floats, rows: Integers) -> Floats:
    """Each row with the value of the last of these rows before it."""
    place = np.maximum(np.searchsorted(rows, np.arange(value.size), side="right") - 1, 0)
    return value[rows[place]]


def _filled(value: Floats) -> Floats:
    """Rows before the first known position stand at that position."""
    known = np.flatnonzero(np.isfinite(value))
    place = np.maximum(np.searchsorted(known, np.arange(value.size), side="right") - 1, 0)
    return value[known[place]]


def _unwrapped(step: Floats, epoch: Floats, name: str) -> tuple[Floats, tuple[str, ...]]:
    """Steps counted anew in each epoch become steps of the run."""
    falls = np.flatnonzero(np.diff(step) < 0) + 1
    if not falls.size:
        return step, ()
    new_epoch = epoch[falls] > epoch[falls - 1]
    lowest = np.nanmin(step)
    near_start = step[falls] <= lowest + 0.5 * (np.nanmax(step) - lowest)
    if np.all(new_epoch & near_start):
        # The pace between two records also passes from the last record of an epoch to the first one of the next.
        starts = np.concatenate([[0], falls])
        pace = float(np.nanmedian(np.diff(step)[np.diff(step) > 0])) if np.any(np.diff(step) > 0) else 1.0
        offset = np.zeros_like(step)
        for start, before in zip(falls, starts, strict=False):
            ended = np.nanmax(step[before:start]) + offset[start - 1]
            offset[start:] = max(ended + pace - step[start], 0.0)
        return step + offset, (f"Column '{name}' starts again in each epoch: steps are counted through.",)
    back = int(falls[0])
    times = "once" if falls.size == 1 else f"{falls.size} times"
    note = f"Column '{name}' goes back {times}, first from {step[back - 1]:,.6g} to {step[back]:,.6g}: a restart."
    return step, (note,)
