"""One life of an analyzer in a process of its own: the real `RunAnalyzer` and store, told what to do over a pipe.

A shared byte says what it is at, so that whoever kills it knows what the kill has hit.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stallwatch.detector.engine import actor, snapshot
from stallwatch.detector.engine.actor import RunAnalyzer
from stallwatch.detector.engine.messages import AnalyzerSettings
from stallwatch.detector.store import Store

PHASES = ("other", "ingest", "snapshot", "restore", "migration")


class Mark:
    """What a life is at, in a file that outlives it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(1))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 1)

    @property
    def phase(self) -> str:
        """The innermost phase now, or at death."""
        return PHASES[self._memory[0]]

    @phase.setter
    def phase(self, phase: str) -> None:
        self._memory[0] = PHASES.index(phase)

    def during(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, marked while it runs."""

        @wraps(function)
        def marked(*arguments: Any, **named: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return function(*arguments, **named)
            finally:
                self.phase = before

        return marked


def live(pipe: Connection, mark_path: Path, run: str, settings: AnalyzerSettings, *, migrates: bool) -> None:
    """Start, say so, and obey until killed; `migrates` when the store is of the version before."""
    mark = Mark(mark_path)
    mark.phase = "other"
    old = ((Store, "prepare", "migration"), (snapshot, "_body", "migration")) if migrates else ()
    for owner, name, phase in (
        (actor, "restore", "restore"),
        (snapshot, "encode", "snapshot"),
        (Store, "save", "snapshot"),
        (RunAnalyzer, "ingest", "ingest"),
        *old,
    ):
        setattr(owner, name, mark.during(phase, getattr(owner, name)))
    # As often as the driver asks for it, however long one takes.
    actor.SNAPSHOT_SHARE = 1e9
    store = Store(settings.store_url)
    store.prepare()
    store.close()
    analyzer = RunAnalyzer(run, settings)
    pipe.send(analyzer._now)
    while True:
        match pipe.recv():
            case "ingest", inputs:
                pipe.send(analyzer.ingest(analyzer.generation, inputs))
            case "poll", now:
                pipe.send(analyzer.poll(now))
            case "end":
                analyzer.flush()
                analyzer._analysis.changes()
                pipe.send(snapshot.encode(analyzer._analysis))
                analyzer.close()
                return
