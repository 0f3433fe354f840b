"""The phases of a training step, and what each of them took."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from stallwatch.agent._records import NAN

if TYPE_CHECKING:
    from stallwatch.agent._probe.device import DeviceClock

STARTING, INPUT, FORWARD, BACKWARD, SYNC, OPTIMIZER, EVALUATION = range(1, 8)
"""Phases, numbered as on the wire."""
NOWHERE = 0
"""Time that belongs to no phase of the step: evaluation, and the agent's own sampling."""


class PhaseTimes:
    """Where training is, since when, and the seconds of each phase of the step so far."""

    __slots__ = ("_clock", "_ended", "now", "seconds", "since")

    def __init__(self, clock: DeviceClock | None) -> None:
        self.now = STARTING
        self.since = perf_counter()
        self.seconds = [0.0] * 8
        self._clock = clock
        self._ended = NAN

    def enter(self, phase: int, now: float, charge: int) -> None:
        """A phase begins; the time since the one before did is charged to `charge`."""
        self.seconds[charge] += now - self.since
        self.now = phase
        self.since = now
        if self._clock is not None:
            self._clock.mark(charge)

    def wait_was_backward(self) -> None:
        """What was counted as waiting for other ranks was work."""
        self.seconds[BACKWARD] += self.seconds[SYNC]
        self.seconds[SYNC] = 0.0

    def of_step(self, now: float, *, seen: bool) -> tuple[float, float, float, float, float, float]:
        """The whole step, then input, forward, backward, sync and optimizer; `seen`: whether its forward was."""
        seconds, whole = self.seconds, now - self._ended
        if not seen:
            # Called in a way the hooks do not see (torch.compile, `model.forward`): better no answer than a wrong one.
            return (whole, NAN, NAN, NAN, seconds[SYNC], seconds[OPTIMIZER])
        entry = seconds[INPUT] if self._ended == self._ended else NAN
        return (whole, entry, seconds[FORWARD], seconds[BACKWARD], seconds[SYNC], seconds[OPTIMIZER])

    def end_step(self, now: float) -> None:
        """The next step begins."""
        self._ended = now
        for index in range(len(self.seconds)):
            self.seconds[index] = 0.0
