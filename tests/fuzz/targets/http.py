"""Any request to the API or the page: an answer that is no 5xx, and JSON where JSON was promised."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from fuzz.framing import join, split
from fuzz.targets.analysis import situations
from fuzz.telemetry import RUN
from stallwatch.detector.alerts.model import Alert
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.silences import Silence
from stallwatch.detector.engine import snapshot
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed

MAX_BYTES = 4_096
_METHODS = ("GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "PATCH", "\xff")
_PATHS = (
    *(
        "/api/v1/runs",
        "/api/v1/runs/team%2Frun:1",
        "/api/v1/runs/team/run:1/findings",
        "/api/v1/runs/team%2Frun:1/ranks",
    ),
    *(
        "/api/v1/runs/team/run:1/series",
        "/api/v1/runs/team%2Frun:1/series/loss",
        "/api/v1/runs/team/run:1/events",
    ),
    *("/api/v1/runs/team/run:1/states", "/api/v1/alerts", "/api/v1/silences", "/api/v1/silences/abc"),
    *(
        "/",
        "/runs/team%2Frun:1",
        "/runs/team/run:1/ranks/0",
        "/runs/team/run:1/loss.svg",
        "/runbooks",
        "/runbooks/plateau",
    ),
    *(
        "/metrics",
        "/livez",
        "/readyz",
        "/static/x/page.css",
        "/api/v1/openapi.json",
        "/runs/%ff%00/findings/%23",
    ),
)
_QUERIES = (
    *(
        "",
        "status=firing",
        "status=all&status=x",
        "points=10",
        "points=0",
        "from_step=1&to_step=0",
        "limit=5",
        "run=a",
    ),
    *(
        "points=²",
        "from_step=9223372036854775807",
        "from_step=99999999999999999999",
        "%ff=%00",
        "name=x&state=plateau",
        "a" * 300,
    ),
)
_BODIES = (
    *(
        '{"kind": "plateau", "seconds": 60}',
        '{"run": "a*", "seconds": 1e400}',
        '{"run": "[", "seconds": 5, "comment": "\\u0000"}',
    ),
    *(
        "[]",
        "null",
        '{"seconds": NaN, "run": "a"}',
        '{"run": 5}',
        '{"run":"a","seconds":"' + "9" * 5000 + '"}',
        "{",
        "[" * 3000,
    ),
    *(
        '{"run": "\\ud800", "seconds": 5}',
        '{"run": "a", "seconds": ' + "9" * 4000 + "}",
        '{"kind": [], "run": "b", "seconds": 1}',
    ),
    '{"run": "c", "seconds": 5, "comment": "\\ud800"}',
)
_TYPES = ("application/json", "text/plain", "", "application/json; charset=x", "\xff")
_REQUEST = join((b"GET", b"/api/v1/runs", b"", b"", b""))


class _Model:
    """A run in the middle of its life, and silences that are kept in memory."""

    links = Links()

    def __init__(self) -> None:
        self._analysis = snapshot.decode(situations()[-1])
        self._silences: list[Silence] = []

    async def views(self) -> Any:
        return [self._analysis.view()]

    async def view(self, run: str) -> Any:
        return self._analysis.view() if run == RUN else None

    async def findings(self, _run: str) -> Any:
        return self._analysis.findings()

    async def ranks(self, _run: str) -> Any:
        return self._analysis.ranks()

    async def events(self, _run: str) -> Any:
        return self._analysis.events()

    async def states(self, _run: str) -> Any:
        return self._analysis.states()

    async def series_names(self, _run: str) -> Any:
        return self._analysis.series_names()

    async def series(self, _run: str, name: str, first: int | None, last: int | None, points: int) -> Any:
        return self._analysis.series(name, first, last, points)

    async def alerts(self, _run: str | None, _status: str, limit: int) -> Any:
        return [(Alert(each, 1.0), None) for each in self._analysis.findings()][:limit]

    async def silences(self) -> Sequence[Silence]:
        return self._silences

    async def silence(self, run: str | None, kind: str | None, seconds: float, comment: str) -> Silence:
        # What a store has to take: text that UTF-8 can say.
        for text in (run, kind, comment):
            (text or "").encode()
        self._silences = [Silence("abc", run, kind, comment, 1.7e9, 1.7e9 + seconds)]
        return self._silences[0]

    async def unsilence(self, identity: str) -> bool:
        return identity == "abc"


async def _no_problems() -> list[str]:
    return []


_model = _Model()
_app = create_app(_model, lambda: Exposed([], []), _no_problems, alerts=_model, links=_model.links)
_loop = asyncio.new_event_loop()


def seeds() -> Iterator[bytes]:
    """Each path, and each body."""
    for path in _PATHS:
        yield join((b"GET", path.encode(), b"", b"", b""))
    for body in _BODIES:
        yield join((b"POST", b"/api/v1/silences", b"", b"application/json", body.encode()))


def one(data: bytes) -> None:
    """One request, as uvicorn would hand it on."""
    parts = [*split(data), b"", b"", b"", b"", b""]
    method, path, query, content_type, body = parts[:5]
    if not path.startswith(b"/") or any(each <= 32 or each > 126 for each in path + query) or b"?" in path:
        # h11 refuses a target with other bytes before the application is asked.
        return
    status, headers, answer = _loop.run_until_complete(
        _ask(method.decode("latin-1"), path, query, content_type, body)
    )
    assert status < 500, (status, answer)
    if headers.get(b"content-type") == b"application/json" and b"content-encoding" not in headers and answer:
        json.loads(answer)


async def _ask(
    method: str, path: bytes, query: bytes, content_type: bytes, body: bytes
) -> tuple[int, dict[bytes, bytes], bytes]:
    from urllib.parse import unquote

    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method or "GET",
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "root_path": "",
        "query_string": query,
        "headers": [(b"host", b"h"), *([(b"content-type", content_type)] if content_type else [])],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await _app(scope, receive, send)
    answer = b"".join(each.get("body", b"") for each in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), answer


def mutate(data: bytes, random: Random) -> bytes:
    """One part of the request."""
    parts = split(data)[:5]
    if len(parts) < 5:
        parts = split(_REQUEST)
    choices = (_METHODS, _PATHS, _QUERIES, _TYPES, _BODIES)
    place = random.randrange(5)
    if random.random() < 0.6:
        parts[place] = random.choice(choices[place]).encode("latin-1", "replace")
    else:
        text = bytearray(parts[place] or b"%")
        text[random.randrange(len(text))] = random.choice(b"%/?&=#0aA.~\xff ")
        parts[place] = bytes(text)
    return join(parts)
