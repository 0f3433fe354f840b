"""How much step time passed since a step: what a finding that began there has cost."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

_CAPACITY = 1024


@dataclass(slots=True)
class StepClock:
    """Cumulative step time by step, thinned to a bounded number of marks."""

    steps: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    stride: int = 1
    total: float = 0.0
    taken: int = 0

    def add(self, step: int, seconds: float) -> None:
        """A step that took so long has passed."""
        if seconds > 0:
            self.total += seconds
        if self.steps and step <= self.steps[-1]:
            # The run went back to a checkpoint: marks beyond it belong to steps that are taken again.
            cut = bisect.bisect_left(self.steps, step)
            del self.steps[cut:], self.totals[cut:]
        if self.taken % self.stride == 0:
            self.steps.append(step)
            self.totals.append(self.total)
            if len(self.steps) > _CAPACITY:
                del self.steps[1::2], self.totals[1::2]
                self.stride *= 2
        self.taken += 1

    def since(self, step: int) -> float:
        """Seconds of step time from the beginning of `step` to now."""
        index = bisect.bisect_left(self.steps, step) - 1
        return self.total - (self.totals[index] if index >= 0 else 0.0)
