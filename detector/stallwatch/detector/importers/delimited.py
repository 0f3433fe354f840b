"""CSV and TSV with a header: anyone's own, Lightning's `metrics.csv`, Keras' `CSVLogger`, W&B exports, pandas' `to_csv`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stallwatch.detector.importers.cells import (
    CellError,
    Column,
    are_torn,
    moment,
    number,
    parse_column,
    seconds,
)
from stallwatch.detector.importers.columns import Selection, loss_names, plain, time_candidates, wanted
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import COMPRESSIONS, Progress, head, opened, run_name
from stallwatch.detector.importers.table import Table, to_log

NAME = "CSV or TSV"
_DELIMITERS = (",", "\t", ";", "|")
# Below this many bytes the csv module has read the file before pandas is imported.
_SMALL_BYTES = 6_000_000
_CHUNK_ROWS = 200_000
# Lines that are looked at to see whether a file of any name is a table.
_LOOKED_AT = 40
_DOWNLOAD = frozenset({"wall_time", "step", "value"})
_LONGEST_HEADER = 200_000
# A name with its value, as console text has it and a header has not.
_PAIR = re.compile(r"[:=]\s{0,4}[\"']?[-+]?[0-9]")
# A name for cells beyond the header that no column of a file has.
_EXCESS = "\0"


def recognises(path: Path, head: str) -> bool:
    """A line of names with rows of as many cells below it, or a name that promises one column of them."""
    found = [line for line in head.splitlines()[:_LOOKED_AT] if line.strip().lstrip("# ")]
    if not found or found[0].lstrip().startswith(("{", "[")):
        return False
    if {".csv", ".tsv", ".tab"} & {suffix.lower() for suffix in path.suffixes}:
        return True
    return any(_is_table(found, delimiter) for delimiter in _DELIMITERS[:3])


def _is_table(found: Sequence[str], delimiter: str) -> bool:
    """Whether these lines are cells between delimiters below a line of names."""
    cells = found[0].lstrip("# ").split(delimiter)
    if len(cells) < 2 or any(_PAIR.search(cell) for cell in cells) or len(found[0]) > _LONGEST_HEADER:
        return False
    below = [line.split(delimiter) for line in found[1:]]
    alike = sum(len(row) == len(cells) and any(_is_number(cell) for cell in row) for row in below)
    return alike >= 0.5 * len(below) if below else bool(loss_names([cell.strip() for cell in cells]))


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"').replace(",", "."))
    except ValueError:
        return False
    return True


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The one run of the file."""
    table = read_table(path, selection, progress)
    if {plain(name) for name in table.header} == _DOWNLOAD and not selection.named:
        # What TensorBoard's page saves of one curve; which one it was, only the name of the file may say.
        value = next(name for name in table.header if plain(name) == "value")
        note = "The file holds one curve without a name, as TensorBoard saves it: it is taken for the loss."
        return [to_log(replace(table, notes=(*table.notes, note)), replace(selection, loss=value))]
    return [to_log(table, selection)]


def read_table(
    path: Path,
    selection: Selection,
    progress: Progress,
    columns: Callable[[Sequence[str]], Sequence[str]] | None = None,
) -> Table:
    """The columns worth reading, or those that `columns` chooses among the names of the header."""
    with opened(path, progress) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        first, line = _header_line(text)
        if not first:
            raise NotALogError(f"{path}: the file is empty")
        delimiter = max(_DELIMITERS, key=first.count)
        header = _header(path, next(csv.reader([first], delimiter=delimiter)))
        if _has_index(path, header, delimiter, line):
            header = ["index", *header]
        names = list(columns(header)) if columns is not None else wanted(header, selection)
        if {plain(name) for name in header} == _DOWNLOAD:
            names = header
        elif (
            not any(loss_names(header))
            and not selection.losses
            and selection.loss is None
            and selection.evaluation_loss is None
        ):
            # A data set beside the log may be large: its header has said enough.
            return Table(run_name(path), str(path), 0, {}, tuple(header))
        times = {*time_candidates(names), selection.time}
        reader = _Reader(path, header, names, times, delimiter, line)
        if path.stat().st_size <= _SMALL_BYTES / (4 if path.suffix.lower() in COMPRESSIONS else 1):
            reader.read_small(text)
        else:
            reader.read_large(text)
    return reader.table()


def _has_index(path: Path, header: Sequence[str], delimiter: str, line: int) -> bool:
    """Whether all rows have one cell more than the header, in front: the index that R writes without a name."""
    rows = head(path).splitlines()[line : line + _LOOKED_AT]
    cells = [row for row in csv.reader(rows[:-1] or rows, delimiter=delimiter) if row]
    return (
        bool(cells)
        and len(cells) > 1
        and all(len(row) == len(header) + 1 and row[-1].strip() for row in cells)
    )


def _header_line(text: io.TextIOWrapper) -> tuple[str, int]:
    """The first line that says anything, and its number; a `#` before the names themselves is dropped."""
    for place, line in enumerate(iter(text.readline, ""), 1):
        if line.strip().lstrip("# "):
            return (line.lstrip("# ") if line.startswith("#") else line), place
    return "", 0


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    names: list[str] = []
    # Beside the list: a header may have a hundred thousand names.
    seen: set[str] = set()
    for place, cell in enumerate(cells, 1):
        name = cell.strip() or f"column {place}"
        names.append(name if name not in seen else f"{name} (column {place})")
        seen.add(names[-1])
    numeric = 0
    for name in cells:
        try:
            float(name)
        except ValueError:
            continue
        numeric += 1
    if numeric and numeric == len([name for name in cells if name.strip()]):
        raise NotALogError(
            f"{path}: the first line holds numbers, not column names: put a header line before it"
        )
    return names


class _Reader:
    """Collects the wanted columns of one file, in pieces."""

    def __init__(
        self,
        path: Path,
        header: list[str],
        names: list[str],
        times: set[str | None],
        delimiter: str,
        header_line: int,
    ) -> None:
        self.path, self.header, self.delimiter, self.header_line = path, header, delimiter, header_line
        self.parse = {name: moment if name in times else number for name in names}
        self.parts: dict[str, list[Column]] = {name: [] for name in names}
        self.torn: dict[str, int] = dict.fromkeys(names, 0)
        """Cells of each column that hold text."""
        self.first_torn: dict[str, str] = {}
        self.rows = 0
        self.repeated = 0
        self.too_long = 0
        self.first_too_long: LogError | None = None

    def table(self) -> Table:
        if self.first_too_long is not None and not are_torn(self.too_long, self.rows):
            raise self.first_too_long
        if not self.rows:
            raise NotALogError(f"{self.path}: there is a header and no rows after it")
        columns = {name: Column.joined(parts) for name, parts in self.parts.items()}
        unreadable = {
            name: said
            for name, said in self.first_torn.items()
            if not are_torn(self.torn[name], columns[name].row.size)
        }
        torn = max((count for name, count in self.torn.items() if name not in unreadable), default=0)
        notes = [f"{self.repeated} repeated header lines were skipped."] if self.repeated else []
        if torn + self.too_long:
            counted = "1 line was" if torn + self.too_long == 1 else f"{torn + self.too_long} lines were"
            notes.append(f"{counted} torn or of something else, and left out.")
        return Table(
            name=run_name(self.path),
            file=str(self.path),
            rows=self.rows,
            columns={name: column for name, column in columns.items() if name not in unreadable},
            header=tuple(self.header),
            notes=tuple(notes),
            unreadable=unreadable,
        )

    def add(self, name: str, cells: Sequence[object], lines: Sequence[int]) -> None:
        """The cells of one column in the rows that come next, and the lines they stand in."""
        torn: list[CellError] = []
        column = parse_column(cells, self.rows, self.parse[name], torn)
        if torn and self.delimiter != "," and "," in torn[0].text:
            # Where a comma does not part cells it may be the decimal sign.
            pointed = [cell.replace(",", ".", 1) if isinstance(cell, str) else cell for cell in cells]
            torn = []
            column = parse_column(pointed, self.rows, self.parse[name], torn)
        self.parts[name].append(column)
        self.torn[name] += len(torn)
        if torn and name not in self.first_torn:
            line = lines[torn[0].index - self.rows]
            said = f"line {line}, column '{name}': '{torn[0].text[:40]}' is not a number"
            self.first_torn[name] = f"{self.path}: {said}"

    def read_small(self, text: io.TextIOWrapper) -> None:
        rows = [(line, row) for line, row in self._rows(text) if row]
        kept = [(line, row) for line, row in rows if row[: len(self.header)] != self.header]
        self.repeated = len(rows) - len(kept)
        lines = [line for line, _ in kept]
        for name in self.parts:
            place = self.header.index(name)
            self.add(name, [row[place] if place < len(row) else "" for _, row in kept], lines)
        self.rows = len(kept)

    def _rows(self, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
        reader, width = csv.reader(text, delimiter=self.delimiter), len(self.header)
        try:
            for row in reader:
                line = reader.line_num + self.header_line
                if len(row) > width and any(row[width:]):
                    self._excess(line)
                    continue
                yield line, row
        except csv.Error as error:
            raise LogError(f"{self.path}: line {reader.line_num + self.header_line}: {error}") from None

    def _excess(self, line: int, count: int = 1) -> None:
        self.too_long += count
        self.first_too_long = self.first_too_long or LogError(
            f"{self.path}: line {line} has more cells than the header, which names {len(self.header)}"
        )

    def read_large(self, text: io.TextIOWrapper) -> None:
        import pandas as pd  # type: ignore[import-untyped]  # it ships no types

        # pandas drops cells beyond those of the first row without a word, so it gets a first row that is wider.
        first = self.delimiter * len(self.header) + "\n"
        try:
            chunks = pd.read_csv(
                _After(first, text),
                sep=self.delimiter,
                header=None,
                names=[*self.header, _EXCESS],
                usecols=[*self.parts, _EXCESS],
                chunksize=_CHUNK_ROWS,
                # Only an empty cell means that there is no value: a literal nan was logged.
                keep_default_na=False,
                na_values=[""],
                low_memory=False,
                index_col=False,
                # Lines of many more cells: those of one more are counted below.
                on_bad_lines="skip",
            )
            for chunk in chunks:
                self._add_frame(chunk.iloc[1:] if chunk.index[0] == 0 else chunk)
        except pd.errors.ParserError as error:
            said = str(error).removeprefix("Error tokenizing data. C error: ").strip()
            raise LogError(f"{self.path}: {said}") from None

    def _add_frame(self, frame: Any) -> None:
        excess = np.flatnonzero(frame[_EXCESS].notna())
        if excess.size:
            self._excess(int(frame.index[excess[0]]) + self.header_line, int(excess.size))
            frame = frame[frame[_EXCESS].isna()]
        # Without any column that is wanted, its loss column asked for and missing: rows are counted all the same.
        first = next(iter(self.parts), _EXCESS)
        if frame[first].dtype.kind not in "fiu":
            repeated = frame[first].astype(object) == first
            self.repeated += int(repeated.sum())
            # Without the header's own words between them the numbers may still be numbers.
            frame = frame[~repeated]
        lines = (frame.index.to_numpy() + self.header_line).tolist()
        for name in self.parts:
            self._add_chunk(name, frame[name], lines)
        self.rows += len(frame)

    def _add_chunk(self, name: str, cells: object, lines: Sequence[int]) -> None:
        values = np.asarray(cells)
        if values.dtype.kind in "fiu":
            values = values.astype(np.float64)
            if self.parse[name] is moment:
                values = seconds(values)
            rows = np.flatnonzero(~np.isnan(values))
            self.parts[name].append(Column(rows + self.rows, values[rows]))
        else:
            self.add(name, values.tolist(), lines)


class _After:
    """A text file with something put before its beginning."""

    def __init__(self, first: str, rest: io.TextIOWrapper) -> None:
        self._first, self._rest = first, rest

    def read(self, size: int = -1) -> str:
        first, self._first = self._first, ""
        return first or self._rest.read(size)

    def __iter__(self) -> Iterator[str]:
        """Asked for by pandas, which takes nothing else for a file."""
        yield from iter(self._rest.readline, "")
