"""Room for others on the same cores, in the middle of long work."""

from __future__ import annotations

import time
from collections.abc import Callable

TURN_SECONDS = 0.001
"""Of work at a time. Linux lets who runs go on to the next tick of its clock, 4 ms often, whoever else wakes up meanwhile."""
PAUSE_SECONDS = 5e-5
"""Asleep, not only yielding: that would let on nobody of another session or control group. With what waking takes, a pause costs
about a twentieth of a turn."""


class Pace:
    """Long work, in turns."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._began = clock()

    def breathe(self) -> None:
        """Pause when the turn is over."""
        if self._clock() - self._began > TURN_SECONDS:
            self._sleep(PAUSE_SECONDS)
            self._began = self._clock()
