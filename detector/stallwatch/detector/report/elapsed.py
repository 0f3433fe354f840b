"""Wall time along a log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stallwatch.detector.importers.log import Floats


def elapsed_seconds(wall_time: Floats) -> Floats | None:
    """Seconds trained since the first point; None without times. A clock that starts again after a restart is added on."""
    if not wall_time.size or not np.isfinite(wall_time).any():
        return None
    known = np.flatnonzero(np.isfinite(wall_time))
    filled = wall_time[
        known[np.maximum(np.searchsorted(known, np.arange(wall_time.size), side="right") - 1, 0)]
    ]
    return np.concatenate([[0.0], np.cumsum(np.maximum(np.diff(filled), 0.0))])


def at_step(step: Floats, elapsed: Floats) -> Callable[[float], float]:
    """Seconds at a position on the axis, interpolated."""
    order = np.argsort(step, kind="stable")
    return lambda position: float(np.interp(position, step[order], elapsed[order]))
