"""From the columns of a log to a `TrainingLog`: which series is judged, on which axis, and what belongs to each point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from stallwatch.detector.importers import columns as by_name
from stallwatch.detector.importers.axis import Axis, read_axis
from stallwatch.detector.importers.cells import Column
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.log import Evaluations, Floats, Integers, Series, TrainingLog

# A training loss that ends before this share of what the evaluation loss covers was only logged while warming up.
_COVERED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Table:
    """A log as named columns of numbers; a column lists only the rows at which it holds something."""

    name: str
    file: str
    rows: int
    columns: Mapping[str, Column]
    header: tuple[str, ...] = ()
    """All columns of the source, also those that were not read."""
    notes: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Columns that hold text, with the sentence that says where."""

    def has(self, name: str) -> bool:
        """Whether the column holds anything."""
        return name in self.columns and self.columns[name].row.size > 0

    def dense(self, name: str | None, *, forward: bool = False) -> Floats:
        """One value a row; NaN where there is none, or with `forward` the last one before."""
        values = np.full(self.rows, np.nan)
        if name is None or not self.has(name):
            return values
        column = self.columns[name]
        if not forward:
            values[column.row] = column.value
            return values
        place = np.searchsorted(column.row, np.arange(self.rows), side="right") - 1
        return np.where(place >= 0, column.value[np.maximum(place, 0)], np.nan)


def to_log(
    table: Table,
    selection: Selection,
    *,
    axis: Axis | None = None,
    loss: str | None = None,
    evaluation_loss: str | None = None,
) -> TrainingLog:
    """Read the table as a training log; raises `LogError` naming the file when it holds no loss.

    Who has learned the axis and the losses from the file itself gives them; otherwise names decide.
    """
    if axis is None:
        _require(table, selection)
        table, selection = _with_sums(table, selection)
        loss = _chosen(table, selection.loss, _losses)
        evaluation_loss = _chosen(table, selection.evaluation_loss, _evaluation_losses, loss)
    if loss is None and evaluation_loss is None:
        raise _no_loss(table)
    if axis is None:
        axis = read_axis(table, selection, table.columns[loss or evaluation_loss or ""].row)
    learning_rate = _chosen(table, selection.learning_rate, by_name.learning_rate_candidates)
    time = _chosen(table, selection.time, by_name.time_candidates)
    gradient_norm = _chosen(table, None, by_name.gradient_norm_candidates)
    rates, seconds = table.dense(learning_rate, forward=True), _seconds(table, time)

    rows = table.columns[loss].row if loss is not None else np.zeros(0, dtype=np.int64)
    evaluations = _evaluations(table, evaluation_loss, rows, axis, seconds, rates)
    judged, note = _judged(loss, selection, axis.value[rows], evaluations)
    roles = {
        "loss": loss,
        "eval_loss": evaluation_loss,
        axis.name: axis.column,
        "learning_rate": learning_rate,
        "wall_time": time,
        "gradient_norm": gradient_norm,
    }
    used = {column for column in roles.values() if column is not None}
    return TrainingLog(
        name=table.name,
        file=table.file,
        axis=axis.name,
        judged=judged,
        columns={role: column for role, column in roles.items() if column is not None},
        step=axis.value[rows],
        row=rows,
        loss=table.columns[loss].value if loss is not None else np.zeros(0),
        learning_rate=rates[rows],
        wall_time=seconds[rows],
        gradient_norm=table.dense(gradient_norm)[rows],
        evaluations=evaluations,
        extra={
            name: Series(axis.value[column.row], column.value)
            for name, column in table.columns.items()
            if name not in used and column.row.size and by_name.is_loss(name)
        },
        notes=(*table.notes, *axis.notes, *note),
    )


def _require(table: Table, selection: Selection) -> None:
    for option, name in selection.named:
        if name in table.unreadable:
            raise LogError(table.unreadable[name])
        if not table.has(name):
            known = ", ".join(table.header or tuple(table.columns))
            state = "is empty" if name in table.columns else f"is not there; there are: {known}"
            raise LogError(f"{table.file}: column '{name}' ({option}) {state}")


def _with_sums(table: Table, selection: Selection) -> tuple[Table, Selection]:
    """The table with the sum of several losses of one objective, and the selection of it."""
    notes = list(table.notes)
    columns = dict(table.columns)
    if selection.losses:
        chosen = _sum(columns, list(selection.losses))
        if chosen is None:
            told = ", ".join(selection.losses)
            raise LogError(f"{table.file}: {told} (--loss) never stand in one row: they cannot be added up")
        selection = replace(selection, loss=chosen, losses=())
    elif selection.loss is None:
        parts = [name for name in _losses(list(columns)) if table.has(name)]
        if len(parts) > 1 and not by_name.is_known_loss(parts[0]) and _are_parts(table, parts):
            selection = replace(selection, loss=_sum(columns, parts))
            notes.append(f"The loss is the sum of {', '.join(parts)} (--loss to choose).")
            held_out = [n for n in by_name.evaluation_loss_candidates(list(columns)) if table.has(n)]
            if selection.evaluation_loss is None and len(held_out) > 1 and _are_parts(table, held_out):
                selection = replace(selection, evaluation_loss=_sum(columns, held_out))
    return replace(table, columns=columns, notes=tuple(notes)), selection


def _are_parts(table: Table, names: Sequence[str]) -> bool:
    """Whether losses stand in the same rows and do not belong to networks that work against each other."""
    rows = table.columns[names[0]].row
    return not by_name.are_opponents(names) and all(
        np.array_equal(table.columns[name].row, rows) for name in names[1:]
    )


def _sum(columns: dict[str, Column], names: Sequence[str]) -> str | None:
    """Add the sum of some columns, in the rows that all of them have; None where there is no such row."""
    rows = columns[names[0]].row
    for name in names[1:]:
        rows = np.intersect1d(rows, columns[name].row)
    if not rows.size:
        return None
    total = "+".join(names)
    values = np.sum([columns[name].value[np.searchsorted(columns[name].row, rows)] for name in names], axis=0)
    columns[total] = Column(rows, values)
    return total


def _losses(names: Sequence[str]) -> list[str]:
    return by_name.best_losses(names) or by_name.objective_candidates(names)[:1]


def _evaluation_losses(names: Sequence[str]) -> list[str]:
    found = by_name.evaluation_loss_candidates(names)
    if found or any(by_name.is_loss(name) for name in names):
        return found
    return by_name.objective_candidates(names, evaluation=True)[:1]


def _chosen(
    table: Table, told: str | None, candidates: Callable[[Sequence[str]], list[str]], other: str | None = None
) -> str | None:
    """The column told, or the best candidate that holds anything; text in the best one is an error if it is a loss."""
    if told is not None:
        return told
    names = [name for name in (*table.columns, *table.unreadable) if name != other]
    found = [name for name in candidates(names) if table.has(name) or name in table.unreadable]
    if candidates is _losses and len(found) > 1 and not by_name.is_known_loss(found[0]):
        raise LogError(
            f"{table.file}: more than one column may be the loss ({', '.join(found)}): choose one with --loss, or several to add them up"
        )
    if found and found[0] in table.unreadable and candidates in {_losses, _evaluation_losses}:
        raise LogError(table.unreadable[found[0]])
    return next((name for name in found if name not in table.unreadable), None)


def _no_loss(table: Table) -> LogError:
    names = table.header or tuple(table.columns)
    empty = [
        name for name in names if by_name.is_loss(name) and name in table.columns and not table.has(name)
    ]
    if empty:
        return NotALogError(f"{table.file}: column '{empty[0]}' holds no values")
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return NotALogError(
        f"{table.file}: no loss column found; name it with --loss (columns: {listed})"
        if names
        else f"{table.file}: no columns found"
    )


def _seconds(table: Table, time: str | None) -> Floats:
    seconds = table.dense(time, forward=True)
    if time is None:
        return seconds
    # Milliseconds since 1970 are told by their size where cells are read; a duration in them only by its name.
    return seconds / 1000 if by_name.plain(time).endswith(("_ms", "_milliseconds")) else seconds


def _evaluations(
    table: Table, loss: str | None, training_rows: Integers, axis: Axis, seconds: Floats, rates: Floats
) -> Evaluations:
    metrics = [
        name
        for name, column in table.columns.items()
        if column.row.size and by_name.is_metric(name) and _about_evaluation(name, column, training_rows)
    ]
    sources = [table.columns[name].row for name in ([loss] if loss is not None else []) + metrics]
    rows = np.unique(np.concatenate(sources)) if sources else np.zeros(0, dtype=np.int64)
    return Evaluations(
        step=axis.value[rows],
        row=rows,
        loss=table.dense(loss)[rows],
        wall_time=seconds[rows],
        learning_rate=rates[rows],
        metrics={name: table.dense(name)[rows] for name in metrics},
        has_loss=np.isin(rows, table.columns[loss].row)
        if loss is not None
        else np.zeros(rows.size, dtype=bool),
    )


def _about_evaluation(name: str, column: Column, training_rows: Integers) -> bool:
    """Whether a metric is one of held-out data: by its name, or because it is logged where no training loss is."""
    if by_name.is_evaluation(name) or (by_name.is_held_out_metric(name) and not by_name.is_training(name)):
        return True
    beside_training = float(np.isin(column.row, training_rows).mean())
    return "train" not in by_name.plain(name).split("_") and beside_training < 0.1


def _judged(
    loss: str | None, selection: Selection, steps: Floats, evaluations: Evaluations
) -> tuple[Literal["loss", "eval_loss"], tuple[str, ...]]:
    """The training loss, unless there is none or it stops long before the evaluation loss does."""
    evaluated = evaluations.step[evaluations.has_loss]
    if loss is None:
        return "eval_loss", ("There is no training loss: the evaluation loss is judged.",)
    if (
        selection.loss is None
        and evaluated.size >= 8
        and steps.size
        and steps[-1] < evaluated[-1] * _COVERED_SHARE
    ):
        last, end = f"{steps[-1]:,.6g}", f"{evaluated[-1]:,.6g}"
        return "eval_loss", (
            f"Column '{loss}' ends at {last} and the log at {end}: the evaluation loss is judged (--loss {loss} to insist).",
        )
    return "loss", ()
