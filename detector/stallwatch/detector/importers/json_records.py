"""JSON Lines, one object a record, and JSON arrays of such objects: home-made logs, mmengine, W&B history exports."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stallwatch.detector.importers.cells import CellError, Column, moment, number, parse_column
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
    with opened(path, progress) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig")
        records = list(_records(path, text))
    return [to_log(table_of(path, records, selection), selection)]


def _records(path: Path, text: io.TextIOWrapper) -> Iterator[Record]:
    before = ""
    for place, line in enumerate(text, 1):
        if not before.strip() and line.lstrip().startswith("["):
            yield from load_array(path, line + text.read())
            return
        # A line is read when the next one has come: only the last one may be cut off.
        yield from _record(path, before, place - 1, last=False)
        before, last = line, place
    if before:
        yield from _record(path, before, last, last=True)


def _record(path: Path, line: str, number_of_line: int, *, last: bool) -> Iterator[Record]:
    if not line.strip():
        return
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        # The line that a killed job was writing.
        if last and not line.endswith("\n"):
            return
        raise LogError(f"{path}: line {number_of_line} is not a JSON object") from None
    if not isinstance(value, dict):
        raise LogError(f"{path}: line {number_of_line} is not a JSON object")
    yield flattened(value)


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
        try:
            columns[name] = parse_column(cells, parse=moment if name in times else number)
        except CellError as error:
            unreadable[name] = (
                f"{path}: {what} {error.index + 1}, key '{name}': '{error.text[:40]}' is not a number"
            )
    if not loss_names(header) and selection.loss is None and selection.evaluation_loss is None:
        listed = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
        raise NotALogError(f"{path}: no key is a loss; name it with --loss (keys: {listed})")
    return Table(run_name(path), str(path), len(rows), columns, tuple(header), (), unreadable)


def _cell(value: object) -> object:
    # A float that is NaN was written by the training; `parse_column` takes text to mean that.
    return str(value) if isinstance(value, float) else value
