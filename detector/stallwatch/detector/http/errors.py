"""Answers of the API as JSON, and its errors."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from stallwatch.detector.http.render import dumps


class JsonResponse(Response):
    """JSON without NaN."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        # Half a surrogate pair, which only an escape in JSON can bring in, goes out as an escape again.
        return dumps(content).encode(errors="backslashreplace")


def error_response(
    status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
) -> JsonResponse:
    """An error that says what is wrong with which parameter."""
    body = {"error": {"status": status, "code": code, "message": message, "field": field}}
    return JsonResponse(body, status_code=status, headers=headers)
