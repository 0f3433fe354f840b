"""A TCP relay whose mood can be changed: what stands between ranks and detector, and misbehaves."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends a reset."""
CHUNK = 4096


class Relay:
    """Passes bytes on, later and slower if told, into nothing if told, until it is closed."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.delay_seconds = 0.0
        self.bytes_per_second = 0.0
        """0 for no limit; of each direction of each connection."""
        self.swallows = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Where to connect to."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self) -> int:
        """Break every connection with a reset; return how many there were."""
        with self._lock:
            broken, self._open = self._open, set()
        for each in broken:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        return len(broken) // 2

    def close(self) -> None:
        """Be gone."""
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target, timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                with self._lock:
                    self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(CHUNK):
                pause = self.delay_seconds
                if self.bytes_per_second:
                    pause += len(received) / self.bytes_per_second
                if pause:
                    time.sleep(pause)
                if not self.swallows:
                    sink.sendall(received)
        # An end is passed on as well, unless nothing is.
        if not self.swallows:
            for each in (source, sink):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, sink}


class Mute:
    """Accepts connections and never says a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Where to connect to."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many it has taken."""
        return len(self._kept)

    def close(self) -> None:
        """Be gone."""
        self._listener.close()
        for each in self._kept:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._kept.append(self._listener.accept()[0])
