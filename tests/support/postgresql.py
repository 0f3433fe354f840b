"""A real PostgreSQL of its own, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.reserved import reserve_port
from support.waiting import wait_until

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Server:
    """A server that can be stopped and started again, with its data."""

    def __init__(self, address: str) -> None:
        if not PROGRAMS:
            pytest.skip("postgresql is not installed: apt-get install postgresql")
        self._address = address
        self.folder = Path(tempfile.mkdtemp(prefix="swpg"))
        # PostgreSQL refuses to run as root.
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(self.folder, "postgres")
        self._port = reserve_port()
        self._data = self.folder / "data"
        create = [*self._user, PROGRAMS[-1] / "initdb", "-D", self._data, "-U", "stallwatch", "--auth=trust"]
        subprocess.run(create, check=True, capture_output=True, cwd=self.folder)
        with (self._data / "pg_hba.conf").open("a") as access:
            access.write("host all all samenet trust\n")
        self.url = f"postgresql+psycopg://stallwatch@{address}:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        program = [*self._user, PROGRAMS[-1] / "postgres", "-D", self._data]
        where = ["-p", str(self._port), "-h", self._address, "-k", self.folder]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([*program, *where], stdout=log, stderr=log, cwd=self.folder)
        wait_until("PostgreSQL", lambda: b"ready to accept connections" in (self.folder / "log").read_bytes())

    def stop(self) -> None:
        """End it and all connections; what was committed stays."""
        assert self._process is not None
        pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        # Its "fast" shutdown: SIGTERM would wait for clients to leave.
        os.kill(pid, signal.SIGINT)
        self._process.wait(30)
        self._process = None


@contextmanager
def postgresql_server(address: str = "127.0.0.1") -> Iterator[Server]:
    """A running server with an empty database, which whoever reaches the address may use."""
    server = Server(address)
    try:
        server.start()
        yield server
    finally:
        if server._process is not None:
            server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def postgresql(address: str = "127.0.0.1") -> Iterator[str]:
    """The URL of an empty database, which whoever reaches the address may use."""
    with postgresql_server(address) as server:
        yield server.url
