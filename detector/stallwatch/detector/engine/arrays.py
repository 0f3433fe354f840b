"""Arrays in snapshots: maps of `dtype`, `shape` and `data`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = frozenset(np.dtype(code).str for code in ("?", *np.typecodes["AllInteger"], "e", "f", "d"))
"""Types of arrays that state may hold."""


def to_plain(array: NDArray[Any]) -> dict[str, Any]:
    """The map of an array."""
    return {"dtype": array.dtype.str, "shape": array.shape, "data": array.tobytes()}


def from_plain(plain: Mapping[str, Any]) -> NDArray[Any]:
    """The array of a map, which cannot be written to. `ValueError` when there is none of ours in it, `KeyError`, `TypeError`."""
    # By name, before numpy reads it: it takes whole expressions for a type.
    if (code := plain["dtype"]) not in _KINDS:
        raise ValueError(f"an array of {code!r} is none of ours")
    return np.frombuffer(plain["data"], np.dtype(code)).reshape(plain["shape"])
