"""The one HTTP application: page, API, metrics and probes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.auth.throttle import Throttle
from stallwatch.detector.errors import AnalyzerLostError, StoreError
from stallwatch.detector.http.access import AccessControl
from stallwatch.detector.http.alerts import AlertModel, alert_routes
from stallwatch.detector.http.api import RUNS_PATH, Api
from stallwatch.detector.http.collector import Exposed, StallwatchCollector
from stallwatch.detector.http.errors import JsonResponse, error_response
from stallwatch.detector.http.exposition import encode
from stallwatch.detector.http.login import login_routes
from stallwatch.detector.http.model import ReadModel
from stallwatch.detector.http.openapi import OPENAPI_PATH, document
from stallwatch.detector.http.page import SecurityHeaders, page_routes
from stallwatch.detector.http.query import QueryError, check_parameters

COMPRESSED_FROM_BYTES = 1024
COMPRESSION_LEVEL = 3
"""Of 9: a scrape of many runs takes a seventh of the time to compress, for a sixth more bytes."""


def create_app(
    model: ReadModel,
    expose: Callable[[], Exposed],
    problems: Callable[[], Awaitable[list[str]]],
    alerts: AlertModel | None = None,
    links: Links | None = None,
    gate: Gate | None = None,
    secure: bool = False,
    notes: Callable[[], list[str]] = list,
    fair: Middleware | None = None,
) -> Starlette:
    """The application.

    `problems` says what keeps the service from being ready; `gate` who may ask, everybody when there is none; `secure` that
    people reach it by https, so that browsers need not send the cookie any other way; `notes` what is not well, and does not
    keep it from being ready; `fair` who has to wait.
    """
    gate, throttle = gate if gate is not None else Gate(), Throttle()
    collector = StallwatchCollector(expose)
    api = Api(model)

    async def metrics(request: Request) -> Response:
        started = time.perf_counter()
        body, content_type = encode(collector.collect(), request.headers.get("accept", ""))
        collector.seconds = time.perf_counter() - started
        return Response(body, headers={"content-type": content_type})

    async def live(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        found = await problems()
        text = "\n".join([*(found or ["ok"]), *notes()]) + "\n"
        return PlainTextResponse(text, status_code=503 if found else 200)

    async def openapi(request: Request) -> Response:
        check_parameters(request.query_params, ())
        return JsonResponse(document())

    routes = [
        *page_routes(model, links),
        *login_routes(gate, throttle, secure=secure),
        Route("/metrics", metrics),
        Route("/livez", live),
        Route("/readyz", ready),
        Route(OPENAPI_PATH, openapi),
        Route(RUNS_PATH, api.list_runs),
        Route(RUNS_PATH + "/{rest:path}", api.get_run),
        *(alert_routes(alerts) if alerts is not None else ()),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            *((fair,) if fair is not None else ()),
            Middleware(SecurityHeaders),
            Middleware(AccessControl, routes=routes, gate=gate, throttle=throttle, secure=secure),
            Middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM_BYTES, compresslevel=COMPRESSION_LEVEL),
        ],
        exception_handlers={
            QueryError: _query_error,
            HTTPException: _http_error,
            AnalyzerLostError: _unavailable,
            StoreError: _unavailable,
            Exception: _internal_error,
        },
    )


async def _query_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, QueryError)
    return error_response(error.status, error.code, str(error), error.field)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(
            404, "not_found", f"there is nothing at {request.url.path}: the API is at {RUNS_PATH}"
        )
    headers = dict(error.headers) if error.headers else None
    return error_response(error.status_code, "http_error", error.detail, headers=headers)


async def _unavailable(_request: Request, error: Exception) -> Response:
    return error_response(503, "unavailable", f"{error}: try again in a moment", headers={"retry-after": "1"})


async def _internal_error(_request: Request, _error: Exception) -> Response:
    return error_response(500, "internal_error", "the detector failed on this request: its log says why")
