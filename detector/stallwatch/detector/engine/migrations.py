"""From the snapshots of earlier formats to today's: one function a format, on the body as plain maps, lists and numbers.

A field that is new and has a default needs no migration, and no new format: it is not in the body, and gets its default. A
format is new when what is there has another shape or meaning, or when a new field cannot begin with its default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stallwatch.detector.engine.arrays import from_plain, to_plain

Body = dict[str, Any]
"""What a snapshot holds, decoded without classes; an array is a map of `dtype`, `shape` and `data`."""

FORMAT = 3
"""What this version writes."""


def migrate(body: Body, version: int) -> Body:
    """The body of an earlier format as one of today's."""
    for number in range(version, FORMAT):
        MIGRATIONS[number](body)
    return body


def _from_2(body: Body) -> None:
    """Format 3 knows where data is missing, and with which step each rank has to go on.

    How much is missing was counted before; where is not known of it. Without `next_step`, steps that are passed over right
    after the migration would not be noticed.
    """
    state, ranks = body["state"], body["state"]["ranks"]
    last, first, steps = (from_plain(ranks[name]) for name in ("last_received", "first_step", "steps"))
    spans = np.where(first >= 0, last - first + 1, 0)
    missing = int(np.maximum(spans - steps, 0).sum())
    state["gaps"] = {"gaps": [], "claims": {}, "unplaced": state["steps_missing"] + missing}
    ranks["next_step"] = to_plain(np.where(first >= 0, last + 1, -1))


MIGRATIONS: dict[int, Callable[[Body], None]] = {2: _from_2}
"""By the format that they start from. All from the last minor version's on are here."""
