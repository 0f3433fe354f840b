"""The part of the API about alerts and silences."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stallwatch.detector.alerts.model import Alert
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.silences import Silence
from stallwatch.detector.auth.access import Principal, Scope
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.http.access import principal_of
from stallwatch.detector.http.errors import JsonResponse
from stallwatch.detector.http.query import QueryError, check_parameters, parse_count, parse_status

SILENCES_PATH = "/api/v1/silences"
ALERTS_PATH = "/api/v1/alerts"
MOST_ALERTS = 1000
LEAST_SILENCE_SECONDS = 1
"""A shorter one is over before who asked for it has the answer."""
MOST_SILENCE_SECONDS = 366 * 86_400
MOST_COMMENT_CHARACTERS = 1000
MOST_RUN_CHARACTERS = 256
MOST_BODY_BYTES = 16_384
_FIELDS = ("run", "kind", "seconds", "comment")


class AlertModel(Protocol):
    """Where this part gets what it shows, and does what is asked."""

    links: Links

    async def alerts(
        self, run: str | None, status: str, limit: int
    ) -> Sequence[tuple[Alert, Silence | None]]:
        """The latest alerts, each with what keeps it quiet."""
        ...

    async def silences(self) -> Sequence[Silence]:
        """All silences, the latest first."""
        ...

    async def silence(self, run: str | None, kind: str | None, seconds: float, comment: str) -> Silence:
        """Begin one."""
        ...

    async def unsilence(self, identity: str) -> bool:
        """End one; False when there is none of this id that holds."""
        ...


def alert_routes(model: AlertModel) -> list[Route]:
    """The routes."""

    async def list_alerts(request: Request) -> Response:
        parameters = request.query_params
        check_parameters(parameters, ("run", "status", "limit"))
        status, limit = parse_status(parameters), parse_count(parameters, "limit", 100, MOST_ALERTS)
        found = await _visible_alerts(model, principal_of(request), parameters.get("run"), status, limit)
        return JsonResponse(
            {"alerts": [_alert_json(alert, silence, model.links) for alert, silence in found]}
        )

    async def list_silences(request: Request) -> Response:
        check_parameters(request.query_params, ("status",))
        status = request.query_params.get("status", "active")
        if status not in {"active", "all"}:
            raise _invalid("status", f"status is {status!r}: it must be one of active, all")
        now, principal = time.time(), principal_of(request)
        chosen = [
            each
            for each in await model.silences()
            if (status == "all" or each.is_active(now)) and principal.may_pattern(Scope.READ, each.run)
        ]
        return JsonResponse({"silences": [silence_json(each, now) for each in chosen]})

    async def add_silence(request: Request) -> Response:
        check_parameters(request.query_params, ())
        given = await _body(request)
        run, kind, seconds, comment = _run(given), _kind(given), _seconds(given), _comment(given)
        _check_may_silence(principal_of(request), run)
        silence = await model.silence(run, kind, seconds, comment)
        return JsonResponse(silence_json(silence, time.time()), status_code=201)

    async def silences(request: Request) -> Response:
        return await (add_silence if request.method == "POST" else list_silences)(request)

    async def delete_silence(request: Request) -> Response:
        check_parameters(request.query_params, ())
        identity = request.path_params["id"]
        if not await _may_end(model, principal_of(request), identity) or not await model.unsilence(identity):
            message = f"no silence {identity!r} holds: GET {SILENCES_PATH} lists those that do"
            raise QueryError(404, "no_such_silence", message, "id")
        return Response(status_code=204)

    return [
        Route(ALERTS_PATH, list_alerts),
        # One route, so that a refusal of other methods names both.
        Route(SILENCES_PATH, silences, methods=["GET", "POST"]),
        Route(SILENCES_PATH + "/{id}", delete_silence, methods=["DELETE"]),
    ]


async def _visible_alerts(
    model: AlertModel, principal: Principal, run: str | None, status: str, limit: int
) -> Sequence[tuple[Alert, Silence | None]]:
    """The latest alerts about runs that whoever asks may see."""
    if principal.may_everywhere(Scope.READ):
        return await model.alerts(run, status, limit)
    if run is not None:
        return await model.alerts(run, status, limit) if principal.may(Scope.READ, run) else ()
    # Which are theirs is known only when they have been read: the latest of all are looked through.
    found = await model.alerts(None, status, MOST_ALERTS)
    return [each for each in found if principal.may(Scope.READ, each[0].finding.run)][:limit]


def _check_may_silence(principal: Principal, run: str | None) -> None:
    if not principal.may_pattern(Scope.ADMINISTER, run):
        message = (
            f"token {principal.name} may silence {', '.join(principal.runs)}, and not {run or 'every run'}"
        )
        raise QueryError(403, "forbidden", message, "run")


async def _may_end(model: AlertModel, principal: Principal, identity: str) -> bool:
    """Whether a silence is one that whoever asks may end; one that is not does not exist for them."""
    if principal.may_everywhere(Scope.ADMINISTER):
        return True
    known = await model.silences()
    return any(each.id == identity and principal.may_pattern(Scope.ADMINISTER, each.run) for each in known)


def silence_json(silence: Silence, now: float) -> dict[str, Any]:
    """A silence."""
    return {
        "id": silence.id,
        "run": silence.run,
        "kind": silence.kind,
        "comment": silence.comment,
        "created_at": silence.created_at,
        "expires_at": silence.expires_at,
        "status": "active" if silence.is_active(now) else "expired",
    }


def _alert_json(alert: Alert, silence: Silence | None, links: Links) -> dict[str, Any]:
    finding = alert.finding
    return {
        "id": alert.id,
        "alert": alert.name,
        "run": finding.run,
        "kind": finding.kind,
        "severity": finding.severity,
        "status": alert.status,
        "started_at": alert.started_at,
        "ended_at": alert.ended_at,
        "silence": None if silence is None else silence.id,
        "reason": finding.reason,
        "links": {
            "finding": links.finding(finding.run, finding.id),
            "run": links.run(finding.run),
            "runbook": links.runbook(finding.kind),
            "dashboard": links.dashboard(finding.run),
        },
    }


async def _body(request: Request) -> dict[str, Any]:
    # A form on somebody else's page cannot send this type.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise QueryError(415, "not_json", "send the silence as JSON, with content-type: application/json")
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BODY_BYTES:
            raise QueryError(413, "too_large", f"a silence is no longer than {MOST_BODY_BYTES} bytes")
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise QueryError(400, "not_json", f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise QueryError(400, "not_json", f"the body must be an object with {', '.join(_FIELDS)}")
    for name in given:
        if name not in _FIELDS:
            message = f"there is no field {name!r}: the fields are {', '.join(_FIELDS)}"
            raise QueryError(422, "unknown_field", message, str(name))
    if given.get("run") is None and given.get("kind") is None:
        raise _invalid(
            "run", "say which run (a name, or a pattern like bert-*), or which kind, is to be silenced"
        )
    return given


def _run(given: dict[str, Any]) -> str | None:
    run = given.get("run")
    if run is not None and not (
        isinstance(run, str) and 0 < len(run) <= MOST_RUN_CHARACTERS and run.isprintable()
    ):
        raise _invalid("run", f"run must be a name or a pattern of 1 to {MOST_RUN_CHARACTERS} characters")
    return run


def _kind(given: dict[str, Any]) -> str | None:
    kind = given.get("kind")
    if kind is not None and not (isinstance(kind, str) and kind in VOCABULARY):
        raise _invalid("kind", f"kind is {kind!r}: it must be one of {', '.join(VOCABULARY)}")
    return None if kind is None else str(kind)


def _seconds(given: dict[str, Any]) -> float:
    seconds = given.get("seconds")
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    # Compared as it came: an integer may be too large for a float.
    if not number or not LEAST_SILENCE_SECONDS <= (seconds or 0) <= MOST_SILENCE_SECONDS:
        raise _invalid(
            "seconds",
            f"seconds is {seconds!r}: it must be a number from {LEAST_SILENCE_SECONDS} to {MOST_SILENCE_SECONDS}",
        )
    return float(seconds or 0)


def _comment(given: dict[str, Any]) -> str:
    comment = given.get("comment", "")
    # PostgreSQL takes no NUL, and no store half a surrogate pair, which an escape in JSON can bring in.
    if (
        not isinstance(comment, str)
        or len(comment) > MOST_COMMENT_CHARACTERS
        or "\0" in comment
        or any("\ud800" <= character <= "\udfff" for character in comment)
    ):
        raise _invalid("comment", f"comment must be text of at most {MOST_COMMENT_CHARACTERS} characters")
    return comment


def _invalid(field: str, message: str) -> QueryError:
    return QueryError(422, "invalid_field", message, field)
