"""Steps of all ranks as rows of one width, whoever has reported them, and who is equal in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", np.float64, np.int64)


def row_of(
    values: NDArray[_Number], ranks: Sequence[int], world_size: int, missing: float
) -> NDArray[_Number]:
    """Values of some ranks in their places among all of them.

    >>> row_of(np.array([1.0, 3.0]), (0, 2), 3, 0.0).tolist()
    [1.0, 0.0, 3.0]
    """
    if len(ranks) == world_size == values.size:
        return values
    row = np.full(world_size, missing, values.dtype)
    if values.size == len(ranks):
        where = np.array([rank for rank in ranks if rank < world_size], np.int64)
        row[where] = values[: where.size]
    return row


def common(known: NDArray[np.bool_], share: float = 0.8) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ranks (columns) known in most rows, and the rows in which all of those are known: (rows, ranks).

    >>> rows, ranks = common(np.array([[True, True, False], [True, True, False], [True, True, True]]))
    >>> rows.tolist(), ranks.tolist()
    ([0, 1, 2], [0, 1])
    """
    told = known.any(axis=1)
    count = int(np.count_nonzero(told))
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ranks = np.flatnonzero(known.sum(axis=0) >= share * count)
    rows = np.flatnonzero(known[:, ranks].all(axis=1)) if ranks.size else np.zeros(0, np.int64)
    return rows, ranks


def first_alike(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each value the first column of its row that holds the same.

    >>> first_alike(np.array([[5, 7, 5], [1, 2, 3]])).tolist()
    [[0, 1, 0], [0, 1, 2]]
    """
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    begins = np.ones(values.shape, np.bool_)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    places = np.where(begins, np.arange(values.shape[1]), 0)
    first = np.take_along_axis(order, np.maximum.accumulate(places, axis=1), axis=1)
    alike = np.empty_like(first)
    np.put_along_axis(alike, order, first, axis=1)
    return alike
