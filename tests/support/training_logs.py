"""Training logs made up for tests of what is said about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stallwatch.detector.importers import Evaluations, TrainingLog

NOTHING = np.zeros(0)


def log_of(
    loss: Sequence[float] | np.ndarray,
    step: Sequence[float] | np.ndarray | None = None,
    *,
    axis: str = "step",
    wall_time: np.ndarray | None = None,
    learning_rate: np.ndarray | None = None,
    evaluation_loss: np.ndarray | None = None,
) -> TrainingLog:
    """A log of these losses at these places, by default one a step; evaluations are spread evenly over it."""
    losses = np.asarray(loss, dtype=float)
    steps = np.arange(losses.size, dtype=float) if step is None else np.asarray(step, dtype=float)
    unknown = np.full(losses.size, np.nan)
    held_out = NOTHING if evaluation_loss is None else evaluation_loss
    rows = np.linspace(0, max(losses.size - 1, 0), held_out.size).astype(int)
    return TrainingLog(
        name="run",
        file="run.csv",
        axis=axis,
        judged="loss",
        columns={"loss": "loss", axis: axis, "eval_loss": "eval_loss"},
        step=steps,
        row=np.arange(losses.size),
        loss=losses,
        learning_rate=unknown if learning_rate is None else learning_rate,
        wall_time=unknown if wall_time is None else wall_time,
        gradient_norm=unknown,
        evaluations=Evaluations(steps[rows], rows, held_out, unknown[rows], unknown[rows]),
    )
