"""A relay whose connections can be cut, and that outlives a detector that is away."""

from __future__ import annotations

import contextlib
import socket
import threading

from faults.relay import Relay, _pass_on


class CuttingRelay(Relay):
    """Cuts what is open and goes on listening."""

    def cut(self) -> None:
        """Reset all connections."""
        open_now, self._sockets[1:] = self._sockets[1:], []
        for each in open_now:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target, timeout=5)
                    far.settimeout(None)
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()
