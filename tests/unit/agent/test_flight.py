"""What of torch's flight recorder goes into a heartbeat."""

from __future__ import annotations

import json
import math
import threading

from stallwatch.agent._cpu_wait import CpuWait
from stallwatch.agent._flight import MAX_BYTES, FlightRecorder, latest_entries


def entry(record, group=0, **fields):
    """One entry as torch 2.13 writes it, shortened."""
    return {
        "record_id": record,
        "pg_id": group,
        "collective_seq_id": record + 1,
        "profiling_name": "gloo:all_reduce",
        "input_sizes": [[20, 4]],
        "input_dtypes": ["Float"],
        "retired": True,
        "state": "scheduled",
        **fields,
    }


def test_the_latest_entries_are_kept_in_order():
    """The last eight of each group, with what was issued and whether it is done."""
    entries = [entry(n) for n in range(50)] + [entry(50, group=3, retired=False)]
    kept = json.loads(latest_entries(json.dumps({"entries": entries})))
    assert [each["sequence"] for each in kept] == [*range(43, 51), 51]
    assert kept[-1] == {
        "op": "gloo:all_reduce",
        "group": "3",
        "sequence": 51,
        "sizes": [[20, 4]],
        "type": "Float",
        "done": False,
    }


def test_it_is_bounded_whatever_comes():
    """Names, shapes and groups without end still fit."""
    entries = [
        entry(n, group=n % 9, profiling_name="x" * 5000, input_sizes=[[1] * 99] * 99) for n in range(400)
    ]
    text = latest_entries(json.dumps({"entries": entries}))
    assert 0 < len(text.encode()) <= MAX_BYTES


def test_it_is_read_once_a_step_and_never_raises():
    """No process group, no recorder, no matter; a second look at the same step reads nothing."""
    recorder = FlightRecorder()
    recorder.read(7)
    assert recorder.read(7) == ""
    assert latest_entries('{"entries": []}') == ""


def test_waiting_for_a_cpu_is_read_from_the_kernel_or_unknown():
    """It never goes down; a thread that is not there has none."""
    reader = CpuWait(threading.get_native_id())
    first, second = reader.seconds(), reader.seconds()
    assert math.isnan(first) or 0 <= first <= second
    assert math.isnan(CpuWait(2**31 - 1).seconds())
