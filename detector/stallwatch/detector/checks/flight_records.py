"""What the flight recorders of ranks say about the collective that some wait in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pending:
    """A collective that was issued by some ranks, and has not ended."""

    operation: str
    sequence: int
    group: str
    sizes: str
    """Shapes and type of its inputs: `[20, 4] Float`."""
    last_of_culprit: int
    """Sequence number of the latest that the culprit has issued on the same group; -1 when unknown."""

    def text(self) -> str:
        """`all_reduce 301 of [20, 4] Float`."""
        return f"{self.operation} {self.sequence}" + (f" of {self.sizes}" if self.sizes else "")


def pending(records: Mapping[int, str], waiting: Sequence[int], culprit: int | None) -> Pending | None:
    """The oldest collective that a waiting rank has issued and that is not done; None where no record tells."""
    for rank in waiting:
        open_ones = [entry for entry in _entries(records.get(rank, "")) if not entry.get("done")]
        if not open_ones:
            continue
        entry = open_ones[0]
        group = str(entry.get("group", ""))
        theirs = _entries(records.get(culprit, "")) if culprit is not None else []
        issued = [_sequence(each) for each in theirs if str(each.get("group", "")) == group]
        shapes = entry.get("sizes")
        sizes = ", ".join(str(shape) for shape in shapes[:2]) if isinstance(shapes, list) else ""
        return Pending(
            operation=str(entry.get("op", "")).rpartition(":")[2][:40] or "collective",
            sequence=_sequence(entry),
            group=group[:40],
            sizes=f"{sizes} {entry.get('type', '')}".strip()[:80],
            last_of_culprit=max(issued, default=-1),
        )
    return None


def _sequence(entry: Mapping[str, Any]) -> int:
    value = entry.get("sequence")
    return value if isinstance(value, int) else -1


def _entries(record: str) -> list[dict[str, Any]]:
    """The entries of one rank, oldest first; what is none is left out, for the text comes from outside."""
    try:
        entries = json.loads(record) if record else []
    except ValueError:
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
