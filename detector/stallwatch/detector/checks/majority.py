"""Who deviates: ranks that should agree bit for bit, split by what they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Prints = NDArray[np.int64] | NDArray[np.uint64]


def deviating(ranks: tuple[int, ...], prints: Prints) -> tuple[int, ...]:
    """The ranks that do not hold what the majority holds; all of them when there is no majority.

    Args:
        ranks: The ranks that the rows of `prints` belong to.
        prints: Fingerprints, one value or one row of values a rank.

    >>> import numpy as np
    >>> deviating((0, 1, 2, 3), np.array([7, 7, 5, 7]))
    (2,)
    >>> deviating((0, 1), np.array([7, 5]))
    (0, 1)
    >>> deviating((0, 1, 2), np.array([[1, 2], [1, 2], [1, 2]]))
    ()
    """
    _, group, sizes = np.unique(prints, axis=0, return_inverse=True, return_counts=True)
    largest = int(sizes.argmax())
    if sizes.size == 1:
        return ()
    if 2 * sizes[largest] <= len(ranks):
        return ranks
    return tuple(
        rank for rank, member in zip(ranks, group.ravel().tolist(), strict=True) if member != largest
    )


def differing_blocks(prints: NDArray[np.uint64], excluded: frozenset[int]) -> NDArray[np.int64]:
    """The blocks (columns) whose fingerprints are not the same on all ranks, but for excluded ones.

    >>> import numpy as np
    >>> differing_blocks(np.array([[1, 2, 3], [1, 5, 4]], np.uint64), frozenset({2})).tolist()
    [1]
    """
    differ = (prints != prints[0]).any(axis=0)
    for block in excluded:
        if block < differ.size:
            differ[block] = False
    return np.flatnonzero(differ)


def majority_of_blocks(ranks: tuple[int, ...], prints: NDArray[np.uint64]) -> tuple[int, ...]:
    """The minority of ranks where a majority holds the same, in blocks that all of them have (0 is none); else nobody.

    >>> import numpy as np
    >>> majority_of_blocks((0, 1, 2), np.array([[7], [5], [7]], np.uint64))
    (1,)
    >>> majority_of_blocks((0, 1, 2), np.array([[0], [5], [0]], np.uint64))
    ()
    >>> majority_of_blocks((0, 1, 2), np.array([[6], [5], [7]], np.uint64))
    ()
    """
    who = deviating(ranks, prints)
    if len(who) == len(ranks) or not prints.all():
        return ()
    return who


def all_known(prints: Prints) -> bool:
    """Whether every rank has taken a fingerprint (-1 is none), and more than one did."""
    return prints.size > 1 and bool((prints != -1).all())


def disagree(prints: NDArray[np.int64]) -> bool:
    """Whether fingerprints that were taken (-1 is none) are not all the same.

    >>> import numpy as np
    >>> disagree(np.array([4, -1, 4])), disagree(np.array([4, 5])), disagree(np.array([-1, 5]))
    (False, True, False)
    """
    known = prints[prints != -1]
    return known.size > 1 and bool((known != known[0]).any())
