"""Where API and page get what they show from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import EventView, RankView, RunView, StateSpan


class ReadModel(Protocol):
    """All runs, watched and stored."""

    async def views(self) -> list[RunView]:
        """Every run, the latest first."""
        ...

    async def view(self, run: str) -> RunView | None:
        """One run."""
        ...

    async def findings(self, run: str) -> Sequence[Finding]:
        """All findings of a run."""
        ...

    async def ranks(self, run: str) -> Sequence[RankView]:
        """The ranks of a run."""
        ...

    async def events(self, run: str) -> Sequence[EventView]:
        """What changed while a run ran."""
        ...

    async def states(self, run: str) -> Sequence[StateSpan]:
        """The states that a run was called."""
        ...

    async def series_names(self, run: str) -> Sequence[str]:
        """The series of a run."""
        ...

    async def series(
        self, run: str, name: str, from_step: int | None, to_step: int | None, points: int
    ) -> Sequence[SeriesPoint]:
        """A series of a run."""
        ...
