"""What goes wrong during the soak, on a schedule."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import psutil

from soak.readers import Readers
from support.relay import Relay
from support.service import Service

LOCK_SECONDS = 10.0
SLOW_SECONDS = 20.0


class Faults:
    """Each method is one fault; `cycle` is their order."""

    def __init__(self, service: Service, relay: Relay, readers: Readers, victim: str) -> None:
        self._service, self._relay, self._readers, self._victim = service, relay, readers, victim
        self.done: list[str] = []

    def cycle(self) -> tuple[Callable[[], None], ...]:
        """Those that leave the service itself alive, so that its memory can be compared over time."""
        return (self.reset_connections, self.kill_analyzer, self.read_slowly, self.lock_store, self.silence)

    def reset_connections(self) -> None:
        """Half of the ranks lose their connection."""
        self._relay.reset()
        self.done.append("connections reset")

    def kill_analyzer(self) -> None:
        """The analyzer of one run dies."""
        for run, process in analyzers(self._service):
            if run == self._victim:
                with suppress(psutil.NoSuchProcess):
                    os.kill(process.pid, signal.SIGKILL)
                    self.done.append("analyzer killed")

    def kill_service(self) -> None:
        """The service dies without warning, and is started again."""
        self._service.kill()
        self.done.append("service killed")
        self._service.start()

    def lock_store(self) -> None:
        """Somebody else holds the store's lock."""
        threading.Thread(target=self._hold_lock, daemon=True).start()
        self.done.append("store locked")

    def read_slowly(self) -> None:
        """A client that takes its time."""
        self._readers.read_slowly(SLOW_SECONDS)
        self.done.append("slow reader")

    def silence(self) -> None:
        """Somebody silences, and ends the silence."""
        with suppress(httpx.HTTPError):
            url = f"{self._service.url}/api/v1/silences"
            begun = httpx.post(url, json={"run": "soak/short-*", "seconds": 5, "comment": "soak"}, timeout=20)
            if begun.status_code == 201:
                httpx.delete(f"{url}/{begun.json()['id']}", timeout=20)
        self.done.append("silence")

    def _hold_lock(self) -> None:
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(self._service.directory / "stallwatch.db", timeout=5)) as held,
        ):
            held.isolation_level = None
            held.execute("BEGIN IMMEDIATE")
            threading.Event().wait(LOCK_SECONDS)
            held.execute("ROLLBACK")


def analyzers(service: Service) -> Iterator[tuple[str, psutil.Process]]:
    """The processes of analyzers, with the run of each: told by the recording that it has open."""
    from urllib.parse import unquote

    assert service.process is not None
    with suppress(psutil.Error):
        for process in psutil.Process(service.process.pid).children(recursive=True):
            with suppress(psutil.Error, OSError):
                for entry in os.scandir(f"/proc/{process.pid}/fd"):
                    target = Path(entry.path).readlink()
                    if target.suffix == ".stallwatch":
                        yield unquote(target.stem), process
                        break
