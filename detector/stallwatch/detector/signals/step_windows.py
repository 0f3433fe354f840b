"""Reduces steps to windows, once for all checks that look at the run as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.observations import AttemptObservation, StepObservation
from stallwatch.detector.core.windows import WINDOW_STEPS, StepWindowObservation

_STEP, _INPUT, _FORWARD, _BACKWARD, _OPTIMIZER, _SYNC = range(6)
_COLUMNS = 6


@dataclass(slots=True)
class StepWindows:
    """Collects the steps of an attempt, ten at a time; what a restart interrupts is not judged."""

    consumes: ClassVar[tuple[type, ...]] = (StepObservation, AttemptObservation)

    attempt: int = 0
    window: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, _COLUMNS, 0), np.float32))
    """The steps collected, shape (steps, columns, ranks); NaN where fewer ranks have reported."""
    work: list[tuple[float, float]] = field(default_factory=list)
    """Samples and micro-batches of a rank."""
    steps: list[int] = field(default_factory=list)

    def update(self, observation: object) -> Iterable[object]:
        """Take a step; a window when it is full."""
        if isinstance(observation, AttemptObservation):
            self._begin(observation.attempt, observation.world_size)
        if not isinstance(observation, StepObservation):
            return ()
        if (observation.attempt, observation.world_size) != (self.attempt, self.window.shape[2]):
            self._begin(observation.attempt, observation.world_size)
        self._store(observation)
        if len(self.steps) < WINDOW_STEPS:
            return ()
        reduced = self._reduce()
        self.steps, self.work = [], []
        return (reduced,)

    def _begin(self, attempt: int, world_size: int) -> None:
        self.attempt = attempt
        self.window = np.full((WINDOW_STEPS, _COLUMNS, world_size), np.nan, np.float32)
        self.steps, self.work = [], []

    def _store(self, step: StepObservation) -> None:
        row = self.window[len(self.steps)]
        columns = (
            step.step_seconds,
            step.input_seconds,
            step.forward_seconds,
            step.backward_seconds,
            step.optimizer_seconds,
            step.sync_seconds,
        )
        if len(step.ranks) == row.shape[1]:
            for index, column in enumerate(columns):
                row[index] = column
        else:
            row[:] = np.nan
            where = np.array([rank for rank in step.ranks if rank < row.shape[1]], np.int64)
            for index, column in enumerate(columns):
                row[index, where] = column[: where.size]
        count = max(len(step.ranks), 1)
        self.work.append((float(step.samples.sum()) / count, float(step.micro_batches.sum()) / count))
        self.steps.append(step.step)

    def _reduce(self) -> StepWindowObservation:
        full = self.window.astype(np.float64)
        sync = full[:, _SYNC]
        lengths, inputs = _median(full[:, _STEP]), _median(full[:, _INPUT])
        least = np.fmin.reduce(sync, axis=1)
        parts = _median(
            np.stack(
                [
                    inputs,
                    _median(full[:, _FORWARD] + full[:, _BACKWARD]),
                    _median(full[:, _OPTIMIZER]),
                    least,
                    _median(sync) - least,
                ]
            )
        )
        lasting = np.where(full[:, _STEP] > 0, full[:, _STEP], np.nan)
        share = _median((full[:, _INPUT] / lasting).T)
        known = lengths[np.isfinite(lengths)]
        samples, micro_batches = np.median(np.array(self.work), axis=0).tolist()
        return StepWindowObservation(
            attempt=self.attempt,
            world_size=self.window.shape[2],
            steps=tuple(self.steps),
            step_seconds=lengths,
            input_seconds=inputs,
            typical_seconds=float(np.median(known)) if known.size else float("nan"),
            parts=parts,
            input_share=share[np.isfinite(share)],
            samples=samples,
            micro_batches=micro_batches,
        )


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians along the last axis of what is known; NaN where nothing is. For small arrays, 40 times as fast as numpy's."""
    ordered = np.sort(values, axis=-1)
    # NaN sorts behind all else.
    count = np.isfinite(values).sum(axis=-1)
    low, high = np.maximum((count - 1) // 2, 0)[..., None], (count // 2)[..., None]
    high = np.minimum(high, values.shape[-1] - 1)
    middle = np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)
    return np.asarray(np.where(count > 0, 0.5 * middle[..., 0], np.nan))
