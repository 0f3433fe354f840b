"""JSON Lines, one object a record, and JSON arrays of such objects: home-made logs, mmengine, W&B history exports."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from stallwatch.detector.importers.cells import CellError, Column, are_torn, moment, number, parse_column
from stallwatch.detector.importers.columns import Selection, loss_names, time_candidates, wanted
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress, opened, plain_suffix, run_name
from stallwatch.detector.importers.table import Table, to_log

NAME = "JSON Lines"
Record = Mapping[str, object]


def recognises(path: Path, head: str) -> bool:
    """Text that begins with an object on a line of its own, or an array of objects."""
    text = head.lstrip()
    if text.startswith("["):
        return text[1:].lstrip().startswith("{")
    if not text.startswith("{"):
        return False
    if plain_suffix(path) in {".jsonl", ".ndjson"}:
        return True
    first, newline, _ = text.partition("\n")
    return bool(newline) and first.rstrip().endswith("}") and _is_object(first)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The one run of the file."""
    torn: list[int] = []
    with opened(path, progress) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace")
        records = list(_records(path, text, torn))
    if torn and not are_torn(len(torn), len(records)):
        raise LogError(f"{path}: line {torn[0]} is not a JSON object")
    table = table_of(path, records, selection)
    if torn:
        counted = "1 line is" if len(torn) == 1 else f"{len(torn)} lines are"
        note = f"{counted} no JSON object, the first of them line {torn[0]}, and left out."
        table = replace(table, notes=(*table.notes, note))
    return [to_log(table, selection)]


def _records(path: Path, text: io.TextIOWrapper, torn: list[int]) -> Iterator[Record]:
    """The objects, one a line; `torn` gets the numbers of lines that are none."""
    before, last = "", 0
    for place, line in enumerate(text, 1):
        if not before.strip() and not last and line.lstrip().startswith("["):
            yield from load_array(path, line + text.read())
            return
        # A line is read when the next one has come: the last one may be what a killed job was writing.
        if before.strip():
            yield from _record(before, last, torn)
        before, last = line, place if line.strip() else last
    if before.strip():
        yield from _record(before, last, torn if before.endswith("\n") else [])


def _record(line: str, place: int, torn: list[int]) -> Iterator[Record]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        yield flattened(value)
    else:
        torn.append(place)


def load_array(path: Path, text: str) -> list[Record]:
    """The records of a JSON array."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LogError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise NotALogError(f"{path}: not an array of JSON objects")
    return [flattened(value) for value in values]


def flattened(record: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested objects as dotted keys: `{"train": {"loss": 1}}` is `train.loss`."""
    flat: dict[str, object] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def table_of(path: Path, records: Iterable[Record], selection: Selection, what: str = "line") -> Table:
    """Records as columns; a key that a record lacks, or holds null, is a cell that holds nothing."""
    rows = list(records)
    if not rows:
        raise NotALogError(f"{path}: there are no records in it")
    header = list(dict.fromkeys(key for row in rows for key in row))
    names = wanted(header, selection)
    times = {*time_candidates(names), selection.time}
    columns: dict[str, Column] = {}
    unreadable: dict[str, str] = {}
    for name in names:
        cells = [_cell(row.get(name)) for row in rows]
        torn: list[CellError] = []
        column = parse_column(cells, parse=moment if name in times else number, torn=torn)
        if torn and not are_torn(len(torn), column.row.size):
            first = torn[0]
            unreadable[name] = (
                f"{path}: {what} {first.index + 1}, key '{name}': '{first.text[:40]}' is not a number"
            )
        else:
            columns[name] = column
    if not loss_names(header) and selection.loss is None and selection.evaluation_loss is None:
        listed = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
        raise NotALogError(f"{path}: no key is a loss; name it with --loss (keys: {listed})")
    return Table(run_name(path), str(path), len(rows), columns, tuple(header), (), unreadable)


def _cell(value: object) -> object:
    # A float that is NaN was written by the training; `parse_column` takes text to mean that.
    return str(value) if isinstance(value, float) else value
