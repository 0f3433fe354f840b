"""TraceML in a rank: `traceml.init(mode="auto")` and `trace_step` around each step, as its README has it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import traceml_ai as traceml
from traceml_ai.utils.timing import timed_region

from faults.peers.probe import Probe


class TraceML(Probe):
    """See the module."""

    def step(self, model: Any) -> AbstractContextManager[None]:
        """One step of TraceML's."""
        traced: AbstractContextManager[None] = traceml.trace_step(model)
        return traced

    def section(self, name: str) -> AbstractContextManager[None]:
        """Input is timed as `wrap_dataloader_fetch` times it, which takes an iterator; the scenarios have none."""
        if name != "data_loading":
            return super().section(name)
        timed: AbstractContextManager[None] = timed_region(
            name="_traceml_internal:dataloader_next", scope="step", record_gpu_events=True
        )
        return timed


def start() -> Probe:
    """Before anything else is done with torch."""
    traceml.init(mode="auto")
    return TraceML()
