"""CSV and TSV with a header: anyone's own, Lightning's `metrics.csv`, Keras' `CSVLogger`, W&B exports, pandas' `to_csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stallwatch.detector.importers.cells import CellError, Column, moment, number, parse_column, seconds
from stallwatch.detector.importers.columns import Selection, time_candidates, wanted
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress, opened, run_name
from stallwatch.detector.importers.table import Table, to_log

NAME = "CSV or TSV"
_DELIMITERS = (",", "\t", ";", "|")
# Below this many bytes the csv module has read the file before pandas is imported.
_SMALL_BYTES = 6_000_000
_CHUNK_ROWS = 200_000


def recognises(path: Path, head: str) -> bool:
    """A first line with at least two named cells, or a name that promises one column of them."""
    first = next((line for line in head.splitlines() if line.strip()), "")
    if first.lstrip().startswith(("{", "[")):
        return False
    named = {".csv", ".tsv", ".tab"} & set(path.suffixes)
    return bool(named) or any(delimiter in first for delimiter in _DELIMITERS[:2])


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The one run of the file."""
    return [to_log(read_table(path, selection, progress), selection)]


def read_table(
    path: Path, selection: Selection, progress: Progress, columns: Sequence[str] | None = None
) -> Table:
    """The columns worth reading, or those asked for."""
    with opened(path, progress) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        first = _header_line(text)
        if not first:
            raise NotALogError(f"{path}: the file is empty")
        delimiter = max(_DELIMITERS, key=first.count)
        header = _header(path, next(csv.reader([first], delimiter=delimiter)))
        names = list(columns) if columns is not None else wanted(header, selection)
        times = {*time_candidates(names), selection.time}
        reader = _Reader(path, header, names, times, delimiter)
        if path.stat().st_size <= _SMALL_BYTES / (4 if path.suffix == ".gz" else 1):
            reader.read_small(text)
        else:
            reader.read_large(text)
    return reader.table()


def _header_line(text: io.TextIOWrapper) -> str:
    """The first line that is not blank or a comment; a `#` before the names themselves is dropped."""
    for line in iter(text.readline, ""):
        if line.strip():
            return line.lstrip("# ") if line.startswith("#") else line
    return ""


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    numeric = 0
    for name in names:
        try:
            float(name)
        except ValueError:
            continue
        numeric += 1
    if numeric and numeric == len([name for name in names if name]):
        raise NotALogError(
            f"{path}: the first line holds numbers, not column names: put a header line before it"
        )
    return names


class _Reader:
    """Collects the wanted columns of one file, in pieces."""

    def __init__(
        self, path: Path, header: list[str], names: list[str], times: set[str | None], delimiter: str
    ) -> None:
        self.path, self.header, self.delimiter = path, header, delimiter
        self.parse = {name: moment if name in times else number for name in names}
        self.parts: dict[str, list[Column]] = {name: [] for name in names}
        self.unreadable: dict[str, str] = {}
        self.rows = 0
        self.repeated = 0

    def table(self) -> Table:
        if not self.rows:
            raise NotALogError(f"{self.path}: there is a header and no rows after it")
        notes = (f"{self.repeated} repeated header lines were skipped.",) if self.repeated else ()
        return Table(
            name=run_name(self.path),
            file=str(self.path),
            rows=self.rows,
            columns={
                name: Column.joined(parts)
                for name, parts in self.parts.items()
                if name not in self.unreadable
            },
            header=tuple(self.header),
            notes=notes,
            unreadable=self.unreadable,
        )

    def add(self, name: str, cells: Sequence[object]) -> None:
        """The cells of one column in the rows that come next."""
        if name in self.unreadable:
            return
        try:
            column = parse_column(cells, self.rows, self.parse[name])
        except CellError as error:
            decimal = error.text.replace(",", ".", 1)
            if self.delimiter != "," and decimal != error.text:
                # Where a comma does not part cells it may be the decimal sign.
                self.add(
                    name,
                    [str(cell).replace(",", ".", 1) if isinstance(cell, str) else cell for cell in cells],
                )
                return
            line = error.index + self.repeated + 2
            self.unreadable[name] = (
                f"{self.path}: line {line}, column '{name}': '{error.text}' is not a number"
            )
            return
        self.parts[name].append(column)

    def read_small(self, text: io.TextIOWrapper) -> None:
        rows = [row for row in self._rows(text) if row]
        kept = [row for row in rows if row[: len(self.header)] != self.header]
        self.repeated = len(rows) - len(kept)
        for name in self.parts:
            place = self.header.index(name)
            self.add(name, [row[place] if place < len(row) else "" for row in kept])
        self.rows = len(kept)

    def _rows(self, text: io.TextIOWrapper) -> Iterator[list[str]]:
        reader = csv.reader(text, delimiter=self.delimiter)
        try:
            for row in reader:
                if len(row) > len(self.header) and any(cell.strip() for cell in row[len(self.header) :]):
                    raise LogError(
                        f"{self.path}: line {reader.line_num + 1} has {len(row)} cells and the header names {len(self.header)}"
                    )
                yield row
        except csv.Error as error:
            raise LogError(f"{self.path}: line {reader.line_num + 1}: {error}") from None

    def read_large(self, text: io.TextIOWrapper) -> None:
        import pandas as pd  # type: ignore[import-untyped]  # it ships no types

        chunks = pd.read_csv(
            text,
            sep=self.delimiter,
            header=None,
            names=self.header,
            usecols=list(self.parts),
            chunksize=_CHUNK_ROWS,
            # Only an empty cell means that there is no value: a literal nan was logged.
            keep_default_na=False,
            na_values=[""],
            low_memory=False,
            index_col=False,
        )
        try:
            for chunk in chunks:
                frame = chunk
                first = frame[next(iter(self.parts))]
                if first.dtype == object or str(first.dtype) in {"str", "string"}:
                    header = first.astype(object) == next(iter(self.parts))
                    self.repeated += int(header.sum())
                    frame = frame[~header]
                for name in self.parts:
                    self._add_chunk(name, frame[name])
                self.rows += len(frame)
        except pd.errors.ParserError as error:
            raise LogError(
                f"{self.path}: {str(error).removeprefix('Error tokenizing data. C error: ').strip()}"
            ) from None

    def _add_chunk(self, name: str, cells: object) -> None:
        values = np.asarray(cells)
        if values.dtype.kind in "fiu":
            values = values.astype(np.float64)
            if self.parse[name] is moment:
                values = seconds(values)
            rows = np.flatnonzero(~np.isnan(values))
            self.parts[name].append(Column(rows + self.rows, values[rows]))
        else:
            self.add(name, values.tolist())
