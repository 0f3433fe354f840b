"""Who reads while the soak runs: Prometheus, people on the page, scripts, and one who is very slow."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import Counter
from urllib.parse import quote

from support.service import Service

SCRAPE_SECONDS = 5.0
READ_SECONDS = 1.0
_RUN = quote("soak/lasting-0", safe="")
_PATHS = (
    *(
        "/api/v1/runs",
        f"/api/v1/runs/{_RUN}",
        f"/api/v1/runs/{_RUN}/ranks",
        f"/api/v1/runs/{_RUN}/series/loss?points=200",
    ),
    *(
        f"/api/v1/runs/{_RUN}/findings",
        "/api/v1/alerts?limit=20",
        "/api/v1/silences",
        f"/api/v1/runs/{_RUN}/events",
    ),
    *(
        "/",
        f"/runs/{_RUN}",
        f"/runs/{_RUN}/ranks/0",
        f"/runs/{_RUN}/loss.svg",
        "/readyz",
        "/api/v1/runs/nobody",
        "/runbooks/hang",
    ),
)


class Readers:
    """Counts the answers by status."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._paths = itertools.cycle(_PATHS)
        self.statuses: Counter[int] = Counter()
        self.failed: list[str] = []
        """Answers of 500: each is a bug."""

    def scrape(self) -> str:
        """As Prometheus does; what was answered, empty when there was no answer."""
        return self._ask("/metrics")

    def read(self) -> None:
        """One page, or one resource."""
        self._ask(next(self._paths))

    def read_slowly(self, seconds: float) -> None:
        """Ask for much, and take a few bytes a second of it."""
        threading.Thread(target=self._trickle, args=(seconds,), daemon=True).start()

    def _ask(self, path: str) -> str:
        status, body = self._service.fetch(path)
        self.statuses[status] += 1
        if status == 500:
            self.failed.append(f"{path}: {body[:200]}")
        return body if status == 200 else ""

    def _trickle(self, seconds: float) -> None:
        waiting = threading.Event()
        try:
            with socket.create_connection(("127.0.0.1", self._service.http_port), timeout=10) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                request = f"GET /runs/{_RUN} HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
                connection.sendall(request.encode())
                for _ in range(int(seconds)):
                    waiting.wait(1.0)
                    connection.recv(64)
        except OSError:
            # The detector was killed meanwhile.
            pass
