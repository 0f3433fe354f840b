"""The page's endpoints over the same read model as the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.core.views import RunView
from stallwatch.detector.errors import AnalyzerLostError, StoreError
from stallwatch.detector.http.model import ReadModel
from stallwatch.detector.http.page import addresses, contexts, runbooks, static_files
from stallwatch.detector.http.page.curve import curve_svg
from stallwatch.detector.http.page.rendering import respond
from stallwatch.detector.http.query import raw_path
from stallwatch.detector.http.visible import visible

_LOSS_ROWS = 12
_PICTURE_POINTS = 80

Endpoint = Callable[[Request], Awaitable[Response]]


class _MissingError(Exception):
    """There is no such thing; the message says what there is."""


def page_routes(model: ReadModel, links: Links | None = None) -> list[BaseRoute]:
    """All of the page; `links` say where Grafana is, if anywhere."""
    pages = _Pages(model, links or Links())
    return [
        Route("/", _readable(pages.overview)),
        Route("/runs", _readable(pages.overview)),
        Route("/runs/{rest:path}", _readable(pages.below_runs)),
        Route("/runbooks", _readable(_runbooks)),
        Route("/runbooks/{name:path}", _readable(_runbook)),
        Route("/static/{version}/{name:path}", static_files.serve),
    ]


def _readable(endpoint: Endpoint) -> Endpoint:
    """Problems as a page that people can read."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except _MissingError as error:
            return _problem(request, 404, "Not found", str(error))
        except (AnalyzerLostError, StoreError) as error:
            return _problem(request, 503, "Not available", f"{error}: try again in a moment.")

    return answer


def _problem(request: Request, status: int, title: str, text: str) -> Response:
    return respond(request, "problem.html", {"title": title, "text": text}, status)


class _Pages:
    def __init__(self, model: ReadModel, links: Links) -> None:
        self._model = model
        self._links = links

    async def overview(self, request: Request) -> Response:
        """`GET /`."""
        given = request.query_params
        views = await visible(self._model, request).views()
        context = contexts.overview(views, given.get("name", ""), given.get("state", ""))
        return respond(request, "overview.html", context)

    async def below_runs(self, request: Request) -> Response:
        """`GET /runs/{run}` and what is below it."""
        place = addresses.parse(raw_path(request).removeprefix("/runs"))
        view = await visible(self._model, request).view(place.run)
        if view is None:
            raise _MissingError(
                f"There is no run {place.run!r}: it has not reported, or its name is another."
            )
        match place.part:
            case "loss.svg":
                return await self._picture(view)
            case "findings":
                return await self._finding(request, view, place.name)
            case "ranks":
                return await self._rank(request, view, place.name)
            case _:
                return await self._run(request, view)

    async def _run(self, request: Request, view: RunView) -> Response:
        model, run = self._model, view.run
        findings, ranks, events, states, names, loss = await asyncio.gather(
            model.findings(run),
            model.ranks(run),
            model.events(run),
            model.states(run),
            model.series_names(run),
            model.series(run, "loss", None, None, _LOSS_ROWS),
        )
        parts = contexts.RunParts(view, findings, ranks, events, states, names, loss)
        context = {
            **contexts.run(parts),
            "rank_columns": contexts.rank_columns(),
            "grafana": self._links.dashboard(run) if self._links.grafana_url else "",
        }
        return respond(request, "run.html", context)

    async def _picture(self, view: RunView) -> Response:
        points = await self._model.series(view.run, "loss", None, None, _PICTURE_POINTS)
        headers = {"cache-control": "private, max-age=15"}
        return Response(curve_svg(points), media_type="image/svg+xml", headers=headers)

    async def _finding(self, request: Request, view: RunView, identity: str) -> Response:
        for found in await self._model.findings(view.run):
            if found.id == identity:
                names = await self._model.series_names(view.run)
                return respond(request, "finding.html", contexts.finding(view, found, names))
        raise _MissingError(f"Run {view.run!r} has no finding {identity!r}.")

    async def _rank(self, request: Request, view: RunView, number: str) -> Response:
        ranks = await self._model.ranks(view.run)
        for rank in ranks:
            if str(rank.rank) == number:
                return respond(request, "rank.html", contexts.rank(view, rank, ranks))
        raise _MissingError(
            f"Run {view.run!r} has no rank {number!r}: its ranks go from 0 to {view.world_size - 1}."
        )


async def _runbooks(request: Request) -> Response:
    return respond(
        request, "runbooks.html", {"names": await asyncio.to_thread(runbooks.names), "missing": None}
    )


async def _runbook(request: Request) -> Response:
    name = request.path_params["name"]
    html = await asyncio.to_thread(runbooks.rendered, name)
    if html is None:
        return respond(request, "runbooks.html", {"names": runbooks.names(), "missing": name}, 404)
    return respond(request, "runbook.html", {"name": name, "html": html})
