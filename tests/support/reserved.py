"""What exists once on a machine, for tests that run side by side: ports, and numbers of networks.

A port that was free a moment ago is taken a moment later: the kernel hands it to a connection, or another test to its server.
So these ports are below the range from which connections get theirs. Whatever is reserved is locked by this process for as long as
it lives.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

LOWEST = 20_000
"""Ray's workers listen below."""
_locks: list[IO[bytes]] = []


def reserve_port() -> int:
    """Return a port that nobody listens on, and that no other test and no outgoing connection gets.

    Raises:
        RuntimeError: Every port below those of outgoing connections is taken.
    """
    return _reserve("port", range(LOWEST, _first_of_connections()), is_free)


def reserve_network() -> int:
    """Return a number from 1 to 254 that no other test builds a network with.

    Raises:
        RuntimeError: All are taken.
    """
    return _reserve("network", range(1, 255), lambda _number: True)


def _reserve(kind: str, numbers: range, is_usable: Callable[[int], bool]) -> int:
    folder = Path(tempfile.gettempdir()) / f"stallwatch-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Not the generator that the tests seed: parallel workers would try the same numbers in the same order.
    for number in random.SystemRandom().sample(numbers, len(numbers)):
        lock = (folder / f"{kind}-{number}").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        if is_usable(number):
            _locks.append(lock)
            return number
        lock.close()
    raise RuntimeError(f"every {kind} from {numbers.start} to {numbers.stop - 1} is taken")


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine; connections that linger there do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _first_of_connections() -> int:
    """The lowest port that the kernel gives to outgoing connections; Linux's default where it does not say."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
