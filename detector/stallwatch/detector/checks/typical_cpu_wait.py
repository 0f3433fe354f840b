"""How much of its time a typical rank is ready to run and waits for a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stallwatch.detector.core.liveness import LivenessObservation

_WEIGHT = 0.2
"""Of the latest span in the running mean: heartbeats are seconds apart, and what others do on the machine comes and goes."""


@dataclass(slots=True)
class TypicalCpuWait:
    """Running mean over the spans between heartbeats of the median over ranks."""

    share: float = math.nan
    """Of wall time; NaN while no agent has told."""
    step: int = -1
    """Last step that is accounted for."""

    def take(self, seen: LivenessObservation) -> None:
        """One tick."""
        known = seen.cpu_wait_share[np.isfinite(seen.cpu_wait_share)]
        if not known.size or int(seen.cpu_wait_to.max()) <= self.step:
            return
        self.step = int(seen.cpu_wait_to.max())
        value = float(np.median(known))
        self.share = value if math.isnan(self.share) else self.share + _WEIGHT * (value - self.share)

    def forget(self) -> None:
        """The processes are gone."""
        self.share, self.step = math.nan, -1
