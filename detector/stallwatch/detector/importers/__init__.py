"""Training logs from files: what other programs wrote, as `TrainingLog`s.

A format is one module with `NAME`, `recognises(path, head)` and `read(path, selection, progress)`. `FORMATS` lists them in
the order they are asked, the pickiest first.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stallwatch.detector.importers import (
    console,
    delimited,
    json_records,
    keras_history,
    mlflow,
    tensorboard,
    trainer_state,
    wandb_export,
)
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.log import Evaluations, Series, TrainingLog
from stallwatch.detector.importers.source import Progress, head, no_progress, plain_name, plain_suffix

__all__ = [
    "FORMATS",
    "Evaluations",
    "Format",
    "LogError",
    "LogSource",
    "NotALogError",
    "Progress",
    "Selection",
    "Series",
    "TrainingLog",
    "find_logs",
    "no_progress",
]


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of log."""

    name: str
    recognises: Callable[[Path, str], bool]
    """By the path and the beginning of the text."""
    read: Callable[[Path, Selection, Progress], list[TrainingLog]]


FORMATS: dict[str, Format] = {
    "tensorboard": Format(tensorboard.NAME, tensorboard.recognises, tensorboard.read),
    "mlflow": Format(mlflow.NAME, mlflow.recognises, mlflow.read),
    "trainer_state": Format(trainer_state.NAME, trainer_state.recognises, trainer_state.read),
    "jsonl": Format(json_records.NAME, json_records.recognises, json_records.read),
    "keras": Format(keras_history.NAME, keras_history.recognises, keras_history.read),
    "wandb": Format(wandb_export.NAME, wandb_export.recognises, wandb_export.read),
    "csv": Format(delimited.NAME, delimited.recognises, delimited.read),
    "console": Format(console.NAME, console.recognises, console.read),
}

_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson"})
_TEXT_SUFFIXES = frozenset({".log", ".out"})


@dataclass(frozen=True, slots=True)
class LogSource:
    """Something that holds the log of one run or of several; nothing is read before `read`."""

    path: Path
    named: bool
    """Whether the user named it, rather than the folder it lies in."""

    @property
    def size(self) -> int:
        """Bytes, for the progress bar."""
        return 0 if self.path.is_dir() else self.path.stat().st_size

    def read(self, selection: Selection | None = None, progress: Progress = no_progress) -> list[TrainingLog]:
        """Raises `LogError` when it cannot be read, `NotALogError` when it holds no training log."""
        selection = selection or Selection()
        try:
            return self._read(selection, progress)
        except RecursionError:
            raise LogError(f"{self.path}: it is nested deeper than any training log") from None
        except csv.Error as error:
            raise LogError(f"{self.path}: {error}") from None

    def format(self, beginning: str) -> str:
        """The name of the format, by the beginning of the text."""
        found = (each for each in FORMATS.values() if each.recognises(self.path, beginning))
        return next(found, FORMATS["console"]).name

    def _read(self, selection: Selection, progress: Progress) -> list[TrainingLog]:
        if mlflow.is_folder(self.path):
            return mlflow.read_folder(self.path, selection, progress)
        if self.path.is_dir():
            return tensorboard.read_folder(self.path, selection)
        beginning = "" if tensorboard.is_event_file(self.path) else head(self.path)
        for format_ in FORMATS.values():
            if format_.recognises(self.path, beginning):
                return format_.read(self.path, selection, progress)
        raise NotALogError(
            f"{self.path}: not a training log of a known kind ({', '.join(f.name for f in FORMATS.values())})"
        )


def find_logs(path: Path) -> list[LogSource]:
    """The file itself, or what lies in the folder and below; raises `LogError` when there is nothing to read."""
    try:
        if not path.exists():
            raise LogError(f"{path}: no such file or folder")
        if not path.is_dir():
            return [LogSource(path, named=True)]
        if mlflow.is_folder(path):
            return [LogSource(path, named=True)]
        found = [LogSource(source, named=False) for source in _in_folder(path)]
    except OSError as error:
        raise LogError(f"{path}: {error.strerror or error}") from None
    if not found:
        hint = ""
        if any(path.rglob("*.wandb")):
            hint = "; W&B's own .wandb files must be exported: wandb sync, then download the history as CSV or JSONL"
        raise LogError(f"{path}: no training logs in this folder{hint}")
    return found


def _in_folder(path: Path) -> Iterator[Path]:
    states: dict[Path, Path] = {}
    below = (p for p in path.rglob("*") if p.is_dir() and not p.name.startswith("."))
    seen: set[Path] = set()
    metrics: set[Path] = set()
    # A link to a folder that is there anyway, or above it, is no second one.
    for folder in (path, *sorted(below, key=lambda each: (each.is_symlink(), each))):
        if (real := folder.resolve()) in seen:
            continue
        if any(parent in metrics for parent in (real, *real.parents)):
            continue
        seen.add(real)
        if mlflow.is_folder(folder):
            metrics.add(real)
            yield folder
            continue
        files = sorted(entry for entry in folder.iterdir() if entry.is_file())
        if any(map(tensorboard.is_event_file, files)) and not tensorboard.is_evaluation_side(folder):
            yield folder
        found = False
        for file in files:
            if plain_name(file) == "trainer_state.json":
                # Each checkpoint repeats the history of those before it: the longest one tells it all.
                run = folder.parent if folder.name.startswith("checkpoint-") else folder
                states[run] = max(states.get(run, file), file, key=lambda state: state.stat().st_size)
                found = True
            elif _SUFFIXES & {suffix.lower() for suffix in file.suffixes} and not tensorboard.is_event_file(
                file
            ):
                found = True
                yield file
        # What a program printed tells the same as the table that it wrote beside it.
        if not found and not any(map(tensorboard.is_event_file, files)):
            yield from (file for file in files if plain_suffix(file) in _TEXT_SUFFIXES)
    yield from states.values()
