"""Ranks whose step numbers have come apart: who skipped an optimizer step is compared with other iterations from then on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.observations import StepObservation


def _none() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class StepShift:
    """Counts the synchronised forward passes that a rank has had more than others for the same optimizer steps.

    A step on which some rank has had none at all is no shift: there, a reduction is missing.
    """

    previous: int = -1
    """The step before."""
    seen: NDArray[np.int64] = field(default_factory=_none)
    """The latest step of each rank."""
    ddp: NDArray[np.int64] = field(default_factory=_none)
    """DDP iterations of each rank after it."""
    ahead: NDArray[np.int64] = field(default_factory=_none)
    """Forward passes that each rank is ahead of the one that has had fewest."""

    def update(self, step: StepObservation) -> None:
        """Take a step."""
        size = max(step.world_size, step.ranks[-1] + 1)
        if self.seen.size < size:
            more = size - self.seen.size
            self.seen = np.append(self.seen, np.full(more, -2))
            self.ddp = np.append(self.ddp, np.full(more, -1))
            self.ahead = np.append(self.ahead, np.zeros(more, np.int64))
        ranks = np.array(step.ranks)
        compared = (self.seen[ranks] == self.previous) & (self.ddp[ranks] >= 0) & (step.ddp_iterations >= 0)
        if np.count_nonzero(compared) > 1:
            who = ranks[compared]
            forwards = step.ddp_iterations[compared] - self.ddp[who]
            least = int(forwards.min())
            if least >= 1 and bool((forwards > least).any()):
                self.ahead[who] += forwards - least
                self.ahead -= self.ahead.min()
        self.seen[ranks], self.ddp[ranks], self.previous = step.step, step.ddp_iterations, step.step

    def accept(self) -> None:
        """Ranks agree on what they step on: passes that some have had more mean nothing (a pass without a backward)."""
        if self.ahead.any():
            self.ahead[:] = 0

    @property
    def apart(self) -> bool:
        """Whether equal step numbers are different iterations."""
        return bool(self.ahead.any())

    def skipping(self) -> tuple[int, ...]:
        """The ranks that are ahead: they have taken fewer optimizer steps for as many passes."""
        return tuple(np.flatnonzero(self.ahead).tolist())
