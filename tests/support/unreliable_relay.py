"""What stands between a rank and the detector, and fails: it cuts connections, or holds them open and passes nothing on."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class UnreliableRelay:
    """Passes bytes on between a port of its own and an address."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.reset()

    @property
    def endpoint(self) -> str:
        """Where to connect to."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self) -> None:
        """Cut all connections without a word to either side but RST."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.cut()

    def swallow(self) -> None:
        """From now on, pass nothing on over the connections there are; new ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.swallows = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                pair = _Pair(near, far)
                with self._lock:
                    self._pairs.append(pair)
                    self.connections += 1
                # Only now: what has passed a byte can be cut.
                pair.start()


class _Pair:
    """One connection on both sides."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.swallows = False
        self._sides = (near, far)

    def start(self) -> None:
        """Pass on what comes, in both directions."""
        near, far = self._sides
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def cut(self) -> None:
        """Send RST on both sides."""
        for each in self._sides:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RD)
            each.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not self.swallows:
                    sink.sendall(data)
        for each in self._sides:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
