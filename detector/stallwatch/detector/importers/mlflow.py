"""MLflow's files: a folder `metrics` with a file a metric, and in it lines of time in milliseconds, value and step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stallwatch.detector.importers.cells import Column
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.errors import NotALogError
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress, opened
from stallwatch.detector.importers.table import Table, to_log

NAME = "MLflow metrics"
FOLDER = "metrics"
_LINE = re.compile(r"\d{12,14} [-+.\w]{1,32}(?: \d{1,12})?")


def recognises(path: Path, head: str) -> bool:
    """A file below a folder `metrics` with nothing but such lines."""
    return is_metric_text(head) and any(parent.name == FOLDER for parent in path.absolute().parents)


def is_metric_text(head: str) -> bool:
    """Whether the first line is one that MLflow writes."""
    first = head.partition("\n")[0].strip()
    return _LINE.fullmatch(first) is not None


def is_folder(folder: Path) -> bool:
    """Whether it is the folder of a run's metrics."""
    if folder.name != FOLDER or not folder.is_dir():
        return False
    for file in files(folder):
        with file.open("rb") as stream:
            return is_metric_text(stream.read(200).decode("utf-8", "replace"))
    return False


def files(folder: Path) -> Iterator[Path]:
    """One file a metric; a metric with a slash in its name lies in a folder."""
    yield from sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The run that the file belongs to: one metric alone tells little."""
    folder = next(parent for parent in path.absolute().parents if parent.name == FOLDER)
    return read_folder(folder, selection, progress)


def read_folder(folder: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The one run of the folder."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    torn = 0
    for file in files(folder):
        name = file.relative_to(folder).as_posix()
        if name.startswith("system/"):
            continue
        with opened(file, progress) as raw:
            for line in raw.read().decode("utf-8", "replace").splitlines():
                cells = line.split()
                try:
                    time, value, step = (
                        float(cells[0]) / 1000,
                        float(cells[1]),
                        float(cells[2]) if cells[2:] else 0.0,
                    )
                except (ValueError, IndexError):
                    torn += bool(cells)
                    continue
                points.setdefault(name, []).append((time, step, value))
    if not points:
        raise NotALogError(
            f"{folder}: no file in it has lines of time, value and step, as MLflow writes them"
        )
    return [to_log(_table(folder, points, torn), selection)]


def _table(folder: Path, points: dict[str, list[tuple[float, float, float]]], torn: int) -> Table:
    """A row for each step and time; what was logged together stands together."""
    keys = sorted({(round(time, 1), step) for series in points.values() for time, step, _ in series})
    place = {key: row for row, key in enumerate(keys)}
    columns: dict[str, Column] = {}
    for name, series in points.items():
        found = {place[round(time, 1), step]: value for time, step, value in series}
        rows = np.array(sorted(found), dtype=np.int64)
        columns[name] = Column(rows, np.array([found[row] for row in rows.tolist()], dtype=np.float64))
    every = np.arange(len(keys))
    columns["step"] = Column(every, np.array([step for _, step in keys], dtype=np.float64))
    columns["_timestamp"] = Column(every, np.array([time for time, _ in keys], dtype=np.float64))
    notes = (f"{torn} torn lines were left out.",) if torn else ()
    return Table(folder.absolute().parent.name, str(folder), len(keys), columns, tuple(columns), notes)
