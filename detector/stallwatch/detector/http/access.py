"""Who may ask for what: one table of all routes, and the middleware that holds to it.

A cookie reads and never writes, so a page of somebody else's cannot make a browser change anything.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stallwatch.detector.auth import access
from stallwatch.detector.auth.access import EVERYBODY, Principal
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.auth.throttle import PER_SECOND, Throttle
from stallwatch.detector.errors import UnauthenticatedError
from stallwatch.detector.http.errors import error_response

LOGIN_PATH = "/login"
LOGOUT_PATH = "/logout"
log = logging.getLogger(__name__)

_PRINCIPAL = "stallwatch.principal"
_SIGNED_IN = "stallwatch.signed_in"


class Need(Enum):
    """What a route asks for."""

    NOTHING = "nothing"
    READ = "read"
    """The scope `read`; the route shows what the token's runs allow."""
    READ_EVERYTHING = "read everything"
    """The scope `read` for every run: what the route shows cannot be divided."""
    ADMINISTER = "administer"
    """The scope `administer`, by a token and not by a cookie; the route looks at the runs."""


NEEDS: dict[tuple[str, str], Need] = {
    ("GET", "/"): Need.READ,
    ("GET", "/runs"): Need.READ,
    ("GET", "/runs/{rest:path}"): Need.READ,
    ("GET", "/runbooks"): Need.READ,
    ("GET", "/runbooks/{name:path}"): Need.READ,
    ("GET", "/static/{version}/{name:path}"): Need.NOTHING,
    ("GET", LOGIN_PATH): Need.NOTHING,
    ("POST", LOGIN_PATH): Need.NOTHING,
    ("POST", LOGOUT_PATH): Need.NOTHING,
    ("GET", "/metrics"): Need.READ_EVERYTHING,
    ("GET", "/livez"): Need.NOTHING,
    ("GET", "/readyz"): Need.NOTHING,
    ("GET", "/api/v1/openapi.json"): Need.NOTHING,
    ("GET", "/api/v1/runs"): Need.READ,
    ("GET", "/api/v1/runs/{rest:path}"): Need.READ,
    ("GET", "/api/v1/alerts"): Need.READ,
    ("GET", "/api/v1/silences"): Need.READ,
    ("POST", "/api/v1/silences"): Need.ADMINISTER,
    ("DELETE", "/api/v1/silences/{id}"): Need.ADMINISTER,
}
PAGES = frozenset({"/", "/runs", "/runs/{rest:path}", "/runbooks", "/runbooks/{name:path}"})
"""Routes that people open in a browser: without a token they are led to the form."""


def principal_of(request: Request) -> Principal:
    """Who asks."""
    principal: Principal = request.scope.get(_PRINCIPAL, EVERYBODY)
    return principal


def is_signed_in(request: Request) -> bool:
    """Whether it was the cookie that said who asks."""
    return bool(request.scope.get(_SIGNED_IN, False))


def cookie_name(secure: bool) -> str:
    """The cookie; with the prefix browsers take it from this host, over TLS, and from nobody else."""
    return "__Host-stallwatch" if secure else "stallwatch"


def client_of(scope: Scope) -> str:
    """The address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class AccessControl:
    """Middleware. A route that the table does not know is refused when the service starts, not when it is asked for."""

    def __init__(
        self, app: ASGIApp, *, routes: Sequence[BaseRoute], gate: Gate, throttle: Throttle, secure: bool
    ) -> None:
        self._app = app
        self._routes = list(routes)
        self._gate = gate
        self._throttle = throttle
        self._cookie = cookie_name(secure)
        for route in self._routes:
            assert isinstance(route, Route), route
            for method in _methods(route):
                if (method, route.path) not in NEEDS:
                    raise AssertionError(f"{method} {route.path} has no entry in the table of http/access.py")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no WebSockets here.
            await send({"type": "websocket.close", "code": 1000})
            return
        route, need = self._need(scope)
        refusal = None if need is Need.NOTHING else self._check(scope, route, need)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(
            scope, receive, send if need is Need.NOTHING or self._gate.is_open else _private(send)
        )

    def _need(self, scope: Scope) -> tuple[str, Need]:
        """What is asked for; of what does not exist nobody hears without a token."""
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is Match.FULL:
                method = "GET" if scope["method"] == "HEAD" else scope["method"]
                return route.path, NEEDS[method, route.path]
        return "", Need.READ

    def _check(self, scope: Scope, route: str, need: Need) -> Response | None:
        """Note who asks; the answer when that is not enough."""
        if need is not Need.ADMINISTER and self._gate.reading_is_open:
            scope[_PRINCIPAL] = self._gate.readers
            return None
        headers = Headers(scope=scope)
        sent, cookie = headers.get("authorization"), None
        if sent is None and need is not Need.ADMINISTER and (cookie := self._cookie_of(headers)) is not None:
            sent = f"Bearer {cookie}"
        try:
            principal = self._gate.authenticate(sent).principal
        except UnauthenticatedError as error:
            if route in PAGES and "authorization" not in headers:
                return _to_the_form(scope, headers)
            # Whoever sent nothing has not tried.
            if sent is not None and not self._throttle.fail(client_of(scope)):
                return too_many_tries()
            if sent is not None:
                log.info("request of %s refused: %s", client_of(scope), error)
            return _unauthenticated(str(error))
        scope[_PRINCIPAL] = principal
        scope[_SIGNED_IN] = cookie is not None
        return _forbidden(principal, need)

    def _cookie_of(self, headers: Headers) -> str | None:
        try:
            cookies: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return None
        return cookies[self._cookie].value if self._cookie in cookies else None


def too_many_tries() -> Response:
    """Somebody fails again and again."""
    pause = str(int(1 / PER_SECOND))
    message = f"too many attempts with tokens that are not known: wait {pause} s"
    return error_response(429, "too_many_attempts", message, headers={"retry-after": pause})


def forbidden(message: str) -> Response:
    """Somebody is known, and may not."""
    return error_response(403, "forbidden", message)


def _forbidden(principal: Principal, need: Need) -> Response | None:
    wanted = access.Scope.ADMINISTER if need is Need.ADMINISTER else access.Scope.READ
    if not principal.has(wanted):
        return forbidden(f"token {principal.name} has no scope {wanted.value}")
    if need is Need.READ_EVERYTHING and not principal.may_everywhere(wanted):
        return forbidden(
            f"token {principal.name} is for some runs only, and this is about all of them: it needs runs {access.EVERY_RUN}"
        )
    return None


def _unauthenticated(message: str) -> Response:
    return error_response(401, "unauthenticated", message, headers={"www-authenticate": "Bearer"})


def _to_the_form(scope: Scope, headers: Headers) -> Response:
    wanted = scope.get("raw_path", b"").decode("ascii", "replace").partition("?")[0] or scope["path"]
    if query := scope.get("query_string", b"").decode("ascii", "replace"):
        wanted += f"?{query}"
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate":
        # Who follows a link in an alert may well be signed in: the browser sends the cookie once the link is our own.
        again = '<!doctype html><meta http-equiv="refresh" content="0"><title>Stallwatch</title>'
        return HTMLResponse(again, headers={"cache-control": "no-store"})
    address = f"{LOGIN_PATH}?next={quote(wanted, safe='')}" if wanted != "/" else LOGIN_PATH
    return RedirectResponse(address, status_code=303, headers={"cache-control": "no-store"})


def _private(send: Send) -> Send:
    """What one reader may see is not kept for another."""

    async def send_private(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kept = headers.get("cache-control", "no-cache")
            headers["cache-control"] = kept if "private" in kept else f"private, {kept}"
            headers.add_vary_header("authorization")
            headers.add_vary_header("cookie")
        await send(message)

    return send_private


def _methods(route: Route) -> set[str]:
    return {method for method in route.methods or () if method != "HEAD"}
