"""The form at which people show their token, and the cookie that shows it for them from then on.

The cookie holds the token: several detectors behind one address need no sessions in common, it ends to be valid when the
token does, and a copy of the tokens file, which has hashes only, is not enough to make one.
"""

from __future__ import annotations

import logging
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from stallwatch.detector.auth.access import Scope
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.auth.throttle import Throttle
from stallwatch.detector.errors import UnauthenticatedError
from stallwatch.detector.http.access import LOGIN_PATH, LOGOUT_PATH, client_of, cookie_name
from stallwatch.detector.http.page.rendering import respond
from stallwatch.detector.http.query import QueryError

MOST_FORM_BYTES = 4096

log = logging.getLogger(__name__)
_FORM = "application/x-www-form-urlencoded"


def login_routes(gate: Gate, throttle: Throttle, *, secure: bool) -> list[Route]:
    """The routes."""
    cookie = cookie_name(secure)

    async def form(request: Request) -> Response:
        wanted = next_page(request.query_params.get("next", ""))
        if gate.reading_is_open:
            return RedirectResponse(wanted, status_code=303)
        return _form(request, wanted)

    async def sign_in(request: Request) -> Response:
        _refuse_foreign(request)
        fields = await _fields(request)
        wanted, token = next_page(fields.get("next", "")), fields.get("token", "").strip()
        if gate.is_open:
            return RedirectResponse(wanted, status_code=303)
        try:
            principal = gate.authenticate(f"Bearer {token}" if token else None).principal
        except UnauthenticatedError as error:
            if not token:
                return _form(request, wanted, "Enter a token.", 401)
            if not throttle.fail(client_of(request.scope)):
                return _form(request, wanted, "Too many attempts: wait a moment.", 429)
            log.info("sign-in of %s refused: %s", client_of(request.scope), error)
            return _form(request, wanted, _sentence(str(error)), 401)
        if not principal.has(Scope.READ):
            return _form(request, wanted, f"Token {principal.name} has no scope read.", 403)
        answer = RedirectResponse(wanted, status_code=303)
        # Gone with the browser's session: there is no date.
        answer.set_cookie(cookie, token, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    async def sign_out(request: Request) -> Response:
        _refuse_foreign(request)
        answer = RedirectResponse(LOGIN_PATH, status_code=303)
        answer.delete_cookie(cookie, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    return [
        Route(LOGIN_PATH, form, methods=["GET"]),
        Route(LOGIN_PATH, sign_in, methods=["POST"]),
        Route(LOGOUT_PATH, sign_out, methods=["POST"]),
    ]


def next_page(given: str) -> str:
    """A path on this service, the overview for anything else: the form leads to nobody else's site."""
    parts = urlsplit(given)
    strange = "\\" in given or not given.isprintable() or not given.isascii()
    if strange or not given.startswith("/") or given.startswith("//") or parts.scheme or parts.netloc:
        return "/"
    return "/" if parts.path.startswith((LOGIN_PATH, LOGOUT_PATH)) else given


def _form(request: Request, wanted: str, problem: str = "", status: int = 200) -> Response:
    answer = respond(request, "login.html", {"next": wanted, "problem": problem}, status)
    answer.headers["cache-control"] = "no-store"
    return answer


def _refuse_foreign(request: Request) -> None:
    """A form on somebody else's page must not sign people in or out."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise QueryError(403, "forbidden", f"sign in at {LOGIN_PATH}, not from another site")


async def _fields(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise QueryError(415, "not_a_form", f"send the form as {_FORM}")
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_FORM_BYTES:
            raise QueryError(413, "too_large", f"the form is no longer than {MOST_FORM_BYTES} bytes")
    try:
        fields = parse_qs(data.decode("ascii"), max_num_fields=8)
    except ValueError:
        raise QueryError(400, "not_a_form", f"the body is no {_FORM}") from None
    return {name: values[0] for name, values in fields.items()}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
