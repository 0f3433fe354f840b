"""The JSON API."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stallwatch.detector.core.views import RunView
from stallwatch.detector.http.errors import JsonResponse
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
from stallwatch.detector.http.render import finding_json, gaps_json, point_json, rank_json, run_json
from stallwatch.detector.http.visible import visible

RUNS_PATH = "/api/v1/runs"


class Api:
    """Endpoints over a read model."""

    def __init__(self, model: ReadModel) -> None:
        self._model = model

    async def list_runs(self, request: Request) -> Response:
        """`GET /api/v1/runs`."""
        check_parameters(request.query_params, ())
        return JsonResponse(
            {"runs": [run_json(view) for view in await visible(self._model, request).views()]}
        )

    async def get_run(self, request: Request) -> Response:
        """`GET /api/v1/runs/{run}` and what is below it."""
        target = parse_target(raw_path(request).removeprefix(RUNS_PATH))
        model = visible(self._model, request)
        view = await model.view(target.run)
        if view is None:
            raise QueryError(
                404, "no_such_run", f"there is no run {target.run!r}: GET {RUNS_PATH} lists the runs", "run"
            )
        match target.part:
            case "findings":
                return await self._findings(model, request, target)
            case "series":
                return await self._series(model, request, target)
            case _:
                check_parameters(request.query_params, ())
                return JsonResponse(await self._part(model, view, target.part))

    @staticmethod
    async def _part(model: ReadModel, view: RunView, part: str) -> dict[str, Any]:
        """What takes no parameters: the run itself, or a part of it."""
        run = view.run
        match part:
            case "ranks":
                return {"run": run, part: [rank_json(rank) for rank in await model.ranks(run)]}
            case "events":
                return {"run": run, part: [asdict(event) for event in await model.events(run)]}
            case "states":
                return {"run": run, part: [asdict(state) for state in await model.states(run)]}
            case "gaps":
                return gaps_json(view)
            case _:
                return run_json(view)

    @staticmethod
    async def _findings(model: ReadModel, request: Request, target: Target) -> Response:
        check_parameters(request.query_params, ("status",))
        status = parse_status(request.query_params)
        chosen = [
            finding_json(finding)
            for finding in await model.findings(target.run)
            if status in {"all", finding.status}
        ]
        return JsonResponse({"run": target.run, "status": status, "findings": chosen})

    @staticmethod
    async def _series(model: ReadModel, request: Request, target: Target) -> Response:
        if not target.name:
            check_parameters(request.query_params, ())
            return JsonResponse({"run": target.run, "series": await model.series_names(target.run)})
        check_parameters(request.query_params, ("from_step", "to_step", "points"))
        window = parse_window(request.query_params)
        points = await model.series(target.run, target.name, window.from_step, window.to_step, window.points)
        if not points and target.name not in (names := await model.series_names(target.run)):
            raise QueryError(
                404,
                "no_such_series",
                f"run {target.run!r} has no series {target.name!r}: it has {', '.join(names) or 'none yet'}",
                "name",
            )
        body = {"run": target.run, "name": target.name, "points": [point_json(point) for point in points]}
        return JsonResponse(body)
