"""What stands between a rank and the detector, and misbehaves: it cuts connections, is slow, or holds them open and passes nothing on."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 4096
CONNECT_SECONDS = 5.0
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends a reset."""


class Relay:
    """Passes bytes on between a port of its own and an address that may come and go, until it is closed."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self.connections = 0
        """There have been, so far."""
        self.delay_seconds = 0.0
        self.bytes_per_second = 0.0
        """0 for no limit; of each direction of each connection."""
        self.swallows = False
        """Whether nothing is passed on, not even an end."""
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """Where to connect to."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self) -> int:
        """Cut all connections without a word to either side but RST; return how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.cut()
        return len(pairs)

    def swallow(self) -> None:
        """From now on, pass nothing on over the connections there are; new ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.swallows = True

    def close(self) -> None:
        """Be gone, connections and all."""
        self._listener.close()
        self.reset()

    def forget(self, pair: _Pair) -> None:
        """It is over."""
        with self._lock:
            self._pairs.discard(pair)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target, timeout=CONNECT_SECONDS)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                pair = _Pair(self, near, far)
                with self._lock:
                    self._pairs.add(pair)
                    self.connections += 1
                # Only now: what has passed a byte can be cut.
                pair.start()


class _Pair:
    """One connection on both sides."""

    def __init__(self, relay: Relay, near: socket.socket, far: socket.socket) -> None:
        self.swallows = False
        self._relay = relay
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
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RD)
            each.close()

    def _is_mute(self) -> bool:
        return self.swallows or self._relay.swallows

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(CHUNK):
                pause = self._relay.delay_seconds
                if self._relay.bytes_per_second:
                    pause += len(received) / self._relay.bytes_per_second
                if pause:
                    time.sleep(pause)
                if not self._is_mute():
                    sink.sendall(received)
        if self._is_mute():
            return
        # An end is passed on as well.
        for each in self._sides:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._relay.forget(self)


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
