"""The latest collectives of this process, from torch's flight recorder, when it seems to hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_BYTES = 8 * 1024
_ENTRIES = 8
"""Of each process group: enough to see what the others have issued and this one has not."""
_GROUPS = 4
_SHAPES = 4


class FlightRecorder:
    """Reads the recorder once for each step that does not end. All of it is private to torch, and may be gone tomorrow."""

    def __init__(self) -> None:
        self._read_at = -2

    def read(self, last_step: int) -> str:
        """The latest entries as JSON; empty when they were read since this step, or cannot be."""
        if last_step == self._read_at:
            return ""
        self._read_at = last_step
        try:
            return latest_entries(_dump())
        except Exception:
            return ""


def _dump() -> bytes:
    from torch._C import _distributed_c10d as c10d

    # NCCL has a recorder of its own; collectives are wanted, with those that are done.
    nccl = getattr(c10d, "_dump_nccl_trace_json", None)
    if nccl is not None:
        dumped: bytes = nccl(True, False)
        if json.loads(dumped).get("entries"):
            return dumped
    dump: Callable[[bool, bool], bytes] = c10d._dump_fr_trace_json  # type: ignore[attr-defined]  # noqa: SLF001
    return dump(True, False)


def latest_entries(dump: bytes | str) -> str:
    """What of a dump is worth sending: the latest entries of a few groups, oldest first, in at most 8 KiB of JSON."""
    by_group: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads(dump).get("entries", []):
        by_group.setdefault(str(entry.get("pg_id", "")), []).append(entry)
    busiest = sorted(by_group.values(), key=lambda entries: -len(entries))[:_GROUPS]
    latest = sorted(
        (entry for entries in busiest for entry in entries[-_ENTRIES:]),
        key=lambda entry: entry.get("record_id", 0),
    )
    kept = [_short(entry) for entry in latest]
    text = json.dumps(kept, separators=(",", ":"))
    while len(text) > MAX_BYTES and kept:
        del kept[0]
        text = json.dumps(kept, separators=(",", ":"))
    return text if kept else ""


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    sizes = entry.get("input_sizes") or []
    return {
        "op": str(entry.get("profiling_name", ""))[:64],
        "group": str(entry.get("pg_id", ""))[:64],
        "sequence": int(entry.get("p2p_seq_id" if entry.get("is_p2p") else "collective_seq_id", -1)),
        "sizes": [list(shape)[:8] for shape in sizes[:_SHAPES]],
        "type": str((entry.get("input_dtypes") or [""])[0])[:16],
        "done": bool(entry.get("retired")) or entry.get("state") == "completed",
    }
