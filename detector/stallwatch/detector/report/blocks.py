"""Long logs in shorter form: sums of neighbours where nothing happens, every point where something does.

The loss model looks again whenever its run is 5 % older, and works on sums over 128ths of a run. So in a log of a million points
sixteen neighbours can be handed on as one point of sixteen times the weight, and the verdict stays what it was, if these are
still seen one by one: the beginning, the points just before a look (they say how noisy single points are), and whatever a
single point can show by itself: a spike, a value that is not finite, a jump of the learning rate, a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from stallwatch.detector.importers.log import Evaluations, Flags, Floats, Integers

# Up to here every point is fed, which takes a few seconds.
WHOLE_POINTS = 150_000
# The beginning is fed point by point in any case: there a block would be a large part of what is known.
_OPENING_POINTS = 20_480
# What the loss model and the checks remember of single points, twice over.
_POINTS_BEFORE_LOOK = 512
_BLOCK_POINTS = 16
_WINDOW_POINTS = 256
_WILD_SIGMAS = 5.0
_RATE_JUMP = 0.1


@dataclass(frozen=True, slots=True)
class Block:
    """One point, or the mean of a few neighbours that ends at it."""

    row: int
    step: int
    loss: float
    learning_rate: float
    points: int


def blocks(
    points: Evaluations, steps: Integers, next_look: Callable[[], int], whole: int | None = None
) -> Iterator[Block]:
    """The points one by one, or from `whole` of them on in blocks; `next_look` says at which step the next look is due."""
    size, total = _BLOCK_POINTS, points.loss.size
    if total <= (WHOLE_POINTS if whole is None else whole):
        yield from _single(points, steps, 0, total)
        return
    opening, end = min(_OPENING_POINTS, total), total // size * size
    calm = _calm(points, steps, size)
    means = points.loss[:end].reshape(-1, size).mean(axis=1).tolist()
    reached = np.maximum.accumulate(steps)
    yield from _single(points, steps, 0, opening)
    start, due, looks_at = opening, -1, -1
    while start < end:
        if next_look() != due:
            due = next_look()
            looks_at = int(np.searchsorted(reached, due))
        if calm[start // size] and start + size + _POINTS_BEFORE_LOOK <= looks_at:
            last = start + size - 1
            yield Block(
                int(points.row[last]),
                int(steps[last]),
                means[start // size],
                float(points.learning_rate[last]),
                size,
            )
        else:
            yield from _single(points, steps, start, start + size)
        start += size
    yield from _single(points, steps, end, total)


def _single(points: Evaluations, steps: Integers, start: int, stop: int) -> Iterator[Block]:
    part = slice(start, stop)
    columns = (points.row[part], steps[part], points.loss[part], points.learning_rate[part])
    for row, step, loss, rate in zip(*(column.tolist() for column in columns), strict=True):
        yield Block(row, step, loss, rate, 1)


def _calm(points: Evaluations, steps: Integers, size: int) -> list[bool]:
    """Blocks in which nothing happens, nor in the blocks beside them."""
    whole = points.loss.size // size * size
    eventful: Flags = np.any(
        _eventful(points.loss, points.learning_rate, steps)[:whole].reshape(-1, size), axis=1
    )
    widened = eventful.copy()
    widened[1:] |= eventful[:-1]
    widened[:-1] |= eventful[1:]
    calm: list[bool] = (~widened).tolist()
    return calm


def _eventful(loss: Floats, rate: Floats, steps: Integers) -> Flags:
    """Points that must be seen on their own."""
    flags: Flags = ~np.isfinite(loss)
    # Wild is what stands far out of its window, as both are measured by medians.
    padded = np.full(-(-loss.size // _WINDOW_POINTS) * _WINDOW_POINTS, np.nan)
    padded[: loss.size] = np.where(flags, np.nan, loss)
    windows = padded.reshape(-1, _WINDOW_POINTS)
    known = ~np.isnan(windows).all(axis=1)
    distance = np.abs(windows[known] - np.nanmedian(windows[known], axis=1, keepdims=True))
    sigma = 1.4826 * np.nanmedian(distance, axis=1, keepdims=True)
    wild = np.zeros(windows.shape, dtype=bool)
    wild[known] = distance > _WILD_SIGMAS * sigma
    flags |= wild.reshape(-1)[: loss.size]
    flags[1:] |= np.diff(steps) < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        flags[1:] |= np.abs(np.diff(np.log(rate))) > _RATE_JUMP
    return flags
