"""The read model as one reader may see it: a run that is not theirs does not exist."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.auth.access import Principal, Scope
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import EventView, RankView, RunView, StateSpan
from stallwatch.detector.http.access import principal_of
from stallwatch.detector.http.model import ReadModel


def visible(model: ReadModel, request: Request) -> ReadModel:
    """What whoever asks may see of a model."""
    principal = principal_of(request)
    return model if principal.may_everywhere(Scope.READ) else VisibleModel(model, principal)


class VisibleModel:
    """Asks for nothing that may not be seen, so that not even the time it takes says that there is something."""

    def __init__(self, model: ReadModel, principal: Principal) -> None:
        self._model = model
        self._principal = principal

    def _may(self, run: str) -> bool:
        return self._principal.may(Scope.READ, run)

    async def views(self) -> list[RunView]:
        """The runs that may be seen, the latest first."""
        return [view for view in await self._model.views() if self._may(view.run)]

    async def view(self, run: str) -> RunView | None:
        """One run."""
        return await self._model.view(run) if self._may(run) else None

    async def findings(self, run: str) -> Sequence[Finding]:
        """All findings of a run."""
        return await self._model.findings(run) if self._may(run) else ()

    async def ranks(self, run: str) -> Sequence[RankView]:
        """The ranks of a run."""
        return await self._model.ranks(run) if self._may(run) else ()

    async def events(self, run: str) -> Sequence[EventView]:
        """What changed while a run ran."""
        return await self._model.events(run) if self._may(run) else ()

    async def states(self, run: str) -> Sequence[StateSpan]:
        """The states that a run was called."""
        return await self._model.states(run) if self._may(run) else ()

    async def series_names(self, run: str) -> Sequence[str]:
        """The series of a run."""
        return await self._model.series_names(run) if self._may(run) else ()

    async def series(
        self, run: str, name: str, from_step: int | None, to_step: int | None, points: int
    ) -> Sequence[SeriesPoint]:
        """A series of a run."""
        if not self._may(run):
            return ()
        return await self._model.series(run, name, from_step, to_step, points)
