"""Keras `History.history` saved as JSON: an object of lists, one value an epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from stallwatch.detector.importers.columns import Selection, epoch_candidates, step_candidates
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.json_records import table_of
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress, opened
from stallwatch.detector.importers.table import to_log

NAME = "Keras history"


def recognises(_path: Path, head: str) -> bool:
    """Any other JSON object: `read` says what is missing when it is no history."""
    text = head.lstrip()
    if not text.startswith("{") or text[1:].lstrip()[:1] not in {'"', "}", "", "{"}:
        # A Python dictionary is console text.
        return False
    following = text.partition("\n")[2].lstrip()
    return not following.startswith("{")


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The one run of the file."""
    with opened(path, progress) as raw:
        text = raw.read().decode("utf-8-sig")
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LogError(f"{path}: not valid JSON: {error}") from None
    if isinstance(loaded, dict) and isinstance(loaded.get("history"), dict):
        loaded = loaded["history"]
    series = {name: values for name, value in loaded.items() if (values := _values(value))}
    if not series:
        raise NotALogError(
            f"{path}: a JSON object without lists of numbers: not a training log of a known kind"
        )
    epochs = max(len(values) for values in series.values())
    counted = [*step_candidates(list(series)), *epoch_candidates(list(series))]
    records = [
        {name: values[epoch] for name, values in series.items() if epoch < len(values)}
        | ({} if counted else {"epoch": epoch})
        for epoch in range(epochs)
    ]
    return [to_log(table_of(path, records, selection, what="epoch"), selection)]


def _values(value: object) -> list[object]:
    """A list, or the object of numbered values that pandas writes for one."""
    if isinstance(value, Mapping) and all(key.isdigit() for key in value):
        return list(value.values())
    return value if isinstance(value, list) else []
