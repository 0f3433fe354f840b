"""The axis of a log: optimizer steps where it counts them, epochs where it has nothing finer, records otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from stallwatch.detector.importers import columns as by_name
from stallwatch.detector.importers.errors import LogError
from stallwatch.detector.importers.log import Floats

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


def read_axis(table: Table, selection: Selection) -> Axis:
    """A step column that moves, else an epoch column that moves, else the number of the row."""
    names = list(table.columns)
    steps = [selection.step] if selection.step is not None else by_name.step_candidates(names)
    epochs = [selection.epoch] if selection.epoch is not None else by_name.epoch_candidates(names)
    epoch = next((name for name in epochs if _moves(table, name)), None)
    # Whoever names the epoch column and not the step column asks for that axis.
    if selection.epoch is None or selection.step is not None:
        for name in steps:
            if _moves(table, name):
                value, notes = _unwrapped(_positions(table, name), _positions(table, epoch), name)
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
