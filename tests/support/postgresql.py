"""A real PostgreSQL of its own, for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.waiting import wait_until

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def postgresql(address: str = "127.0.0.1") -> Iterator[str]:
    """The URL of an empty database, which whoever reaches the address may use."""
    if not PROGRAMS:
        pytest.skip("postgresql is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="swpg"))
    # PostgreSQL refuses to run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    with socket.socket() as one:
        one.bind((address, 0))
        port = one.getsockname()[1]
    data = folder / "data"
    create = [*user, PROGRAMS[-1] / "initdb", "-D", data, "-U", "stallwatch", "--auth=trust"]
    subprocess.run(create, check=True, capture_output=True, cwd=folder)
    with (data / "pg_hba.conf").open("a") as access:
        access.write("host all all samenet trust\n")
    start = [*user, PROGRAMS[-1] / "postgres", "-D", data, "-p", str(port), "-h", address, "-k", folder]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(start, stdout=log, stderr=log, cwd=folder)
    try:
        wait_until("PostgreSQL", lambda: b"ready to accept connections" in (folder / "log").read_bytes())
        yield f"postgresql+psycopg://stallwatch@{address}:{port}/postgres"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
