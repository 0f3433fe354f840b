"""The JSON API."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stallwatch.detector.core.views import RunView
from stallwatch.detector.http.model import ReadModel
from stallwatch.detector.http.query import (
    QueryError,
    Target,
    check_parameters,
    parse_status,
    parse_target,
    parse_window,
    raw_path,
)
from stallwatch.detector.http.render import dumps, finding_json, gaps_json, point_json, rank_json, run_json

RUNS_PATH = "/api/v1/runs"


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
        target = parse_target(raw_path(request).removeprefix(RUNS_PATH))
        view = await self._model.view(target.run)
        if view is None:
            raise QueryError(
                404, "no_such_run", f"there is no run {target.run!r}: GET {RUNS_PATH} lists the runs", "run"
            )
        match target.part:
            case "findings":
                return await self._findings(request, target)
            case "series":
                return await self._series(request, target)
            case _:
                check_parameters(request.query_params, ())
                return JsonResponse(await self._part(view, target.part))

    async def _part(self, view: RunView, part: str) -> dict[str, Any]:
        """What takes no parameters: the run itself, or a part of it."""
        run = view.run
        match part:
            case "ranks":
                return {"run": run, part: [rank_json(rank) for rank in await self._model.ranks(run)]}
            case "events":
                return {"run": run, part: [asdict(event) for event in await self._model.events(run)]}
            case "states":
                return {"run": run, part: [asdict(state) for state in await self._model.states(run)]}
            case "gaps":
                return gaps_json(view)
            case _:
                return run_json(view)

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
