"""An application behind a real server on a thread, and a client of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette

from stallwatch.detector.http.server import HttpServer, bind


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)


class Client:
    """Asks one server, byte for byte as told."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.port = port
        self.source = source
        """The address to ask from: all of 127.0.0.0/8 is this machine."""

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """GET."""
        return self.request("GET", path, headers)

    def post(self, path: str) -> Answer:
        """POST with an empty body."""
        return self.request("POST", path)

    def send(self, path: str, value: Any) -> Answer:
        """POST JSON."""
        return self.request("POST", path, {"content-type": "application/json"}, json.dumps(value).encode())

    def delete(self, path: str) -> Answer:
        """DELETE."""
        return self.request("DELETE", path)

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Any request."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=20, source_address=(self.source, 0)
        )
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(app: Starlette) -> Iterator[Client]:
    """Serve `app` while the block runs."""
    bound = bind("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    server = HttpServer(app)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(bound), loop).result(20)
    try:
        yield Client(bound.getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
        bound.close()
