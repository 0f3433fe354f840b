"""An end that does not come in order comes all the same."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)


def end_by_force(seconds: float) -> None:
    """End this process with code 1 when it is still there after so long."""

    def end() -> None:
        log.error(
            "the detector did not end in order within %.0f s: it ends now; agents send what was not saved",
            seconds,
        )
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
