"""A training log as every importer hands it on, whatever format it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Series:
    """A named series beside the loss, on the same axis."""

    step: Floats
    value: Floats


@dataclass(frozen=True, slots=True)
class Evaluations:
    """What was logged about held-out data; all arrays have one entry an evaluation, NaN where it did not say."""

    step: Floats
    row: Integers
    loss: Floats
    wall_time: Floats
    learning_rate: Floats
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    has_loss: Flags | None = None
    """Where the loss cell held something, a NaN that was logged included; None: everywhere."""


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """One run read from a log; arrays have one entry a training row, in the order of the log.

    A row is here because its loss cell held something: NaN in `loss` means that the source logged NaN. In every other
    array NaN means that nothing was logged.
    """

    name: str
    file: str
    axis: Literal["step", "epoch"]
    """What `step` counts."""
    judged: Literal["loss", "eval_loss"]
    """The series the verdict is about: the training loss, or the evaluation loss where there is no usable training loss."""
    columns: Mapping[str, str]
    """Which column of the source played which role."""
    step: Floats
    row: Integers
    """Position in the log, to put training and evaluation rows back into the order they came in."""
    loss: Floats
    learning_rate: Floats
    wall_time: Floats
    """Seconds, from any origin."""
    gradient_norm: Floats
    evaluations: Evaluations
    extra: Mapping[str, Series] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Sentences about how the log was read, for whoever wonders about the result."""
    details: tuple[str, ...] = ()
    """Further ones for whoever asks: kinds of lines with an example, and what was left."""

    @property
    def points(self) -> Evaluations:
        """The judged series with what belongs to each of its points."""
        if self.judged == "eval_loss":
            kept = self.evaluations.has_loss
            if kept is None:
                return self.evaluations
            return Evaluations(
                step=self.evaluations.step[kept],
                row=self.evaluations.row[kept],
                loss=self.evaluations.loss[kept],
                wall_time=self.evaluations.wall_time[kept],
                learning_rate=self.evaluations.learning_rate[kept],
            )
        return Evaluations(self.step, self.row, self.loss, self.wall_time, self.learning_rate)

    @property
    def judged_column(self) -> str:
        """The source's own name of the judged series."""
        return self.columns.get(self.judged, self.judged)
