"""Hugging Face `trainer_state.json`: the `log_history` of a Trainer."""

from __future__ import annotations

import json
from pathlib import Path

from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.json_records import flattened, table_of
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress, opened, plain_name
from stallwatch.detector.importers.table import to_log

NAME = "Hugging Face trainer state"
# The Trainer's summary at the end of training: an average over the run, not a point of the curve.
_SUMMARY_KEYS = frozenset({"train_runtime", "total_flos"})


def recognises(path: Path, head: str) -> bool:
    """The name, or the keys that only a trainer's state has."""
    named = plain_name(path) == "trainer_state.json"
    return head.lstrip().startswith("{") and (named or '"log_history"' in head)


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The one run of the file."""
    with opened(path, progress) as raw:
        text = raw.read().decode("utf-8-sig")
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LogError(f"{path}: not valid JSON: {error}") from None
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise NotALogError(f"{path}: there is no list 'log_history' in it")
    entries = [flattened(entry) for entry in history if not _SUMMARY_KEYS & entry.keys()]
    if not entries:
        raise NotALogError(f"{path}: 'log_history' is empty: the Trainer had not logged yet")
    return [to_log(table_of(path, entries, selection, what="'log_history' entry"), selection)]
