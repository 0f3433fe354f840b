"""TensorBoard event files: a file or a run's folder, read by TensorBoard's own reader."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stallwatch.detector.importers.cells import Column
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.log import TrainingLog
from stallwatch.detector.importers.source import Progress
from stallwatch.detector.importers.table import Table, to_log

NAME = "TensorBoard events"
_MARK = "tfevents"
# Keras writes the two sides of a run into folders of these names.
_TRAINING_FOLDERS = frozenset({"train", "training"})
_EVALUATION_FOLDERS = frozenset({"validation", "val", "valid", "eval", "evaluation", "test"})


@dataclass(frozen=True, slots=True)
class _Scalar:
    wall_time: float
    order: int
    step: int
    tag: str
    value: float


def is_event_file(path: Path) -> bool:
    """By the mark that TensorBoard itself goes by."""
    return _MARK in path.name


def recognises(path: Path, _head: str) -> bool:
    """Only by name: the registry asks before it reads the head of what is a binary file."""
    return is_event_file(path)


def read(path: Path, selection: Selection, _progress: Progress) -> list[TrainingLog]:
    """The one run of the file."""
    return [to_log(_table(path, path.absolute().parent.name, _scalars(path)), selection)]


def read_folder(folder: Path, selection: Selection) -> list[TrainingLog]:
    """The run whose event files lie in the folder, with its evaluation side where that has a folder of its own."""
    scalars = list(_scalars(folder))
    name, side = folder.absolute().name, evaluation_folder(folder)
    if side is not None:
        name = folder.absolute().parent.name
        scalars += [replace(s, tag=f"validation/{s.tag}") for s in _scalars(side)]
    return [to_log(_table(folder, name, scalars), selection)]


def evaluation_folder(folder: Path) -> Path | None:
    """The sibling folder that holds the evaluation side of a training folder."""
    if folder.name.lower() not in _TRAINING_FOLDERS:
        return None
    siblings = (
        side for side in folder.absolute().parent.iterdir() if side.name.lower() in _EVALUATION_FOLDERS
    )
    return next(
        (side for side in siblings if side.is_dir() and any(map(is_event_file, side.iterdir()))), None
    )


def is_evaluation_side(folder: Path) -> bool:
    """Whether the folder is read together with a training folder beside it."""
    if folder.name.lower() not in _EVALUATION_FOLDERS:
        return False
    siblings = (side for side in folder.absolute().parent.iterdir() if side.is_dir())
    return any((found := evaluation_folder(side)) and found.name == folder.name for side in siblings)


def _scalars(path: Path) -> Iterator[_Scalar]:
    try:
        from tensorboard.backend.event_processing import event_accumulator as reader  # type: ignore[import-untyped]  # it ships no types
    except ImportError:
        raise LogError(
            f"{path}: reading event files needs TensorBoard: pip install 'stallwatch[analyze]'"
        ) from None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    # By default the reader keeps a sample of 10,000 scalars a tag; 0 keeps them all.
    accumulator: Any = reader.EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    try:
        yield from _of_tags(accumulator)
    except Exception as error:
        # The reader's errors for damaged files, and for what is in them, have no common type.
        raise LogError(f"{path}: TensorBoard cannot read it: {error}") from None


def _of_tags(accumulator: Any) -> Iterator[_Scalar]:
    accumulator.Reload()
    tags = accumulator.Tags()
    for tag in tags["scalars"]:
        for order, event in enumerate(accumulator.Scalars(tag)):
            yield _Scalar(event.wall_time, order, event.step, tag, event.value)
    for tag in tags["tensors"]:
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            yield from _tensor_scalars(accumulator.Tensors(tag), tag)


def _tensor_scalars(events: Iterable[Any], tag: str) -> Iterator[_Scalar]:
    """TensorFlow 2 writes scalars as tensors without dimensions."""
    from tensorboard.util import tensor_util  # type: ignore[import-untyped]  # it ships no types

    for order, event in enumerate(events):
        yield _Scalar(
            event.wall_time, order, event.step, tag, float(tensor_util.make_ndarray(event.tensor_proto))
        )


def _table(path: Path, name: str, scalars: Iterable[_Scalar]) -> Table:
    """One row for what was written about a step at a time, in the order of writing."""
    written = sorted(scalars, key=lambda scalar: (scalar.wall_time, scalar.step, scalar.order))
    if not written:
        raise NotALogError(f"{path}: there are no scalars in the event files")
    tags = sorted({scalar.tag for scalar in written})
    rows: dict[str, list[int]] = {tag: [] for tag in tags}
    values: dict[str, list[float]] = {tag: [] for tag in tags}
    steps: list[float] = []
    times: list[float] = []
    filled: set[str] = set()
    for scalar in written:
        if not steps or scalar.step != steps[-1] or scalar.tag in filled:
            steps.append(scalar.step)
            times.append(scalar.wall_time)
            filled = set()
        filled.add(scalar.tag)
        rows[scalar.tag].append(len(steps) - 1)
        values[scalar.tag].append(scalar.value)
    every = np.arange(len(steps))
    own = {
        "step": Column(every, np.array(steps, dtype=np.float64)),
        "wall_time": Column(every, np.array(times)),
    }
    columns = {tag: Column(np.array(rows[tag]), np.array(values[tag], dtype=np.float64)) for tag in tags}
    return Table(name, str(path), len(steps), {**columns, **own}, tuple(tags))
