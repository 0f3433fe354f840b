"""The CSV that W&B's charts export: one `run - metric` column a run, with `__MIN` and `__MAX` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stallwatch.detector.importers.columns import Selection, plain
from stallwatch.detector.importers.delimited import read_table
from stallwatch.detector.importers.errors import NotALogError
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress
from stallwatch.detector.importers.table import Table, to_log

NAME = "W&B chart export"
_PART = " - "


def recognises(_path: Path, head: str) -> bool:
    """A header with the columns that only W&B writes."""
    first = head.partition("\n")[0]
    return _PART in first and "__MIN" in first and "__MAX" in first


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """One log a run of the chart."""
    table = read_table(path, replace(selection, loss=None), progress, _values)
    kept = _values(table.header)
    shared = [name for name in kept if _PART not in name]
    runs = dict.fromkeys(name.rpartition(_PART)[0] for name in kept if _PART in name)
    if not runs:
        raise NotALogError(f"{path}: no column is called 'RUN - METRIC', as those of W&B's charts are")
    return [to_log(_one_run(table, run, shared), selection) for run in runs]


def _values(header: Sequence[str]) -> list[str]:
    """The columns without those of the band around each curve."""
    return [name for name in header if not name.endswith(("__MIN", "__MAX"))]


def _one_run(table: Table, run: str, shared: list[str]) -> Table:
    prefix = run + _PART
    names = {name: name for name in shared if name in table.columns}
    # Before W&B exports a chart, a run's own step is called after the run too.
    names |= {name: _metric(name, prefix) for name in table.columns if name.startswith(prefix)}
    columns = {new: table.columns[old] for old, new in names.items()}
    header = tuple(columns)
    return Table(run, table.file, table.rows, columns, header, table.notes, _renamed(table, prefix))


def _metric(name: str, prefix: str) -> str:
    metric = name.removeprefix(prefix)
    return metric if plain(metric) else name


def _renamed(table: Table, prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): text for name, text in table.unreadable.items() if name.startswith(prefix)
    }
