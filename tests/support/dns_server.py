"""A name server that knows one address for every name, or says nothing."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class DnsServer:
    """Answers over UDP on a port of its own."""

    def __init__(self, answer: str) -> None:
        self._answer = socket.inet_aton(answer)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.silent = False
        """Whether names do not exist."""
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                query, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            question = query[12:end]
            (kind,) = struct.unpack(">H", question[-4:-2])
            found = kind == 1 and not self.silent
            # A response, recursion available, with the code for "no such name" when it is to be gone.
            flags = 0x8580 | (3 if self.silent else 0)
            reply = query[:2] + struct.pack(">5H", flags, 1, int(found), 0, 0) + question
            if found:
                reply += struct.pack(">HHHIH", 0xC00C, 1, 1, 1, 4) + self._answer
            # Who asked may be gone, and this server be closed, by now.
            with contextlib.suppress(OSError):
                self._socket.sendto(reply, sender)
