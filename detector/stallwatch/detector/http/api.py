"""The JSON API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RankView, RunView
from stallwatch.detector.http.query import (
    QueryError,
    Target,
    check_parameters,
    parse_status,
    parse_target,
    parse_window,
)
from stallwatch.detector.http.render import dumps, finding_json, point_json, rank_json, run_json

RUNS_PATH = "/api/v1/runs"


class ReadModel(Protocol):
    """Where the API gets what it shows from."""

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

    async def series_names(self, run: str) -> Sequence[str]:
        """The series of a run."""
        ...

    async def series(
        self, run: str, name: str, from_step: int | None, to_step: int | None, points: int
    ) -> Sequence[SeriesPoint]:
        """A series of a run."""
        ...


class JsonResponse(Response):
    """JSON without NaN."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumps(content).encode()


def error_response(
    status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
) -> JsonResponse:
    """An error that says what is wrong with which parameter."""
    body = {"error": {"status": status, "code": code, "message": message, "field": field}}
    return JsonResponse(body, status_code=status, headers=headers)


class Api:
    """Endpoints over a read model."""

    def __init__(self, model: ReadModel) -> None:
        self._model = model

    async def list_runs(self, request: Request) -> Response:
        """`GET /api/v1/runs`."""
        check_parameters(request.query_params, ())
        return JsonResponse({"runs": [run_json(view) for view in await self._model.views()]})

    async def get_run(self, request: Request) -> Response:
        """`GET /api/v1/runs/{run}` and what is below it."""
        target = parse_target(_raw_path(request).removeprefix(RUNS_PATH))
        view = await self._model.view(target.run)
        if view is None:
            raise QueryError(
                404, "no_such_run", f"there is no run {target.run!r}: GET {RUNS_PATH} lists the runs", "run"
            )
        match target.part:
            case "findings":
                return await self._findings(request, target)
            case "ranks":
                check_parameters(request.query_params, ())
                ranks = await self._model.ranks(target.run)
                return JsonResponse({"run": target.run, "ranks": [rank_json(rank) for rank in ranks]})
            case "series":
                return await self._series(request, target)
            case _:
                check_parameters(request.query_params, ())
                return JsonResponse(run_json(view))

    async def _findings(self, request: Request, target: Target) -> Response:
        check_parameters(request.query_params, ("status",))
        status = parse_status(request.query_params)
        chosen = [
            finding_json(finding)
            for finding in await self._model.findings(target.run)
            if status in {"all", finding.status}
        ]
        return JsonResponse({"run": target.run, "status": status, "findings": chosen})

    async def _series(self, request: Request, target: Target) -> Response:
        names = await self._model.series_names(target.run)
        if not target.name:
            check_parameters(request.query_params, ())
            return JsonResponse({"run": target.run, "series": names})
        check_parameters(request.query_params, ("from_step", "to_step", "points"))
        window = parse_window(request.query_params)
        if target.name not in names:
            raise QueryError(
                404,
                "no_such_series",
                f"run {target.run!r} has no series {target.name!r}: it has {', '.join(names) or 'none yet'}",
                "name",
            )
        points = await self._model.series(
            target.run, target.name, window.from_step, window.to_step, window.points
        )
        body = {"run": target.run, "name": target.name, "points": [point_json(point) for point in points]}
        return JsonResponse(body)


def _raw_path(request: Request) -> str:
    """The path as it was sent: Starlette has unquoted its own, and a run's name may hold a slash."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    path: str = raw.decode("ascii", "replace")
    return path.partition("?")[0]
