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

    ranks: tuple[int, ...] = ()
    """Of the step before."""
    ddp: NDArray[np.int64] = field(default_factory=_none)
    """Their DDP iterations after it."""
    ahead: NDArray[np.int64] = field(default_factory=_none)
    """By rank, the forward passes that it is ahead of the one that has had fewest."""

    def update(self, step: StepObservation) -> None:
        """Take a step."""
        ranks, ddp = self.ranks, self.ddp
        self.ranks, self.ddp = step.ranks, step.ddp_iterations
        if ranks == step.ranks:
            forwards = step.ddp_iterations - ddp
            if (forwards == forwards[0]).all():
                return
        size = max(step.world_size, step.ranks[-1] + 1)
        if self.ahead.size < size:
            self.ahead = np.append(self.ahead, np.zeros(size - self.ahead.size, np.int64))
        common, then, now = np.intersect1d(ranks, step.ranks, return_indices=True)
        known = (ddp[then] >= 0) & (step.ddp_iterations[now] >= 0)
        who = common[known].astype(np.int64)
        forwards = step.ddp_iterations[now][known] - ddp[then][known]
        if who.size > 1 and forwards.min() >= 1 and forwards.max() > forwards.min():
            self.ahead[who] += forwards - forwards.min()
            self.ahead -= self.ahead.min()

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
