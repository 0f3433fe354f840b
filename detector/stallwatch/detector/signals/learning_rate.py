"""What the learning rate is doing: its peak, and the jumps that re-open the question whether the model still learns."""

from __future__ import annotations

import math
from dataclasses import dataclass

_JUMP = math.log(1 / 0.7)
"""A change by 30 % or more at once: no smooth schedule does that, and it changes what the loss can still give."""
_TYPICAL_CHANGES = 5.0
"""A jump is also this many times the usual change between records, so the steep end of a smooth decay is none."""
_MEMORY = 0.2
"""Weight of the latest change in the running mean of changes."""
_SPENT = 1e-3
"""Below this share of its peak a learning rate moves nothing worth waiting for."""
_FLOOR = 1e-6
"""Changes below this share of the peak are changes from nothing to nothing."""
_INCREASE = 0.01
"""A relative increase below this is rounding."""


@dataclass(slots=True)
class LearningRateTracker:
    """Follows the learning rate of the lowest rank's first parameter group."""

    current: float = math.nan
    peak: float = 0.0
    typical_change: float = 0.0
    """Running mean of the absolute change in log learning rate between records."""
    reference: float = 0.0
    """What an increase is measured from: the lowest rate since the latest one."""
    spent_from: int = -1
    """Step from which next to nothing of the peak has been left; -1 while there is."""
    raised_at: int = -1
    """Step of the latest increase; -1 when it never increased."""

    def update(self, step: int, rate: float) -> bool:
        """Take the learning rate of one record; return whether it jumped out of what its schedule does."""
        if not math.isfinite(rate) or rate < 0:
            return False
        before, self.current = self.current, rate
        warming = rate > self.peak
        self.peak = max(self.peak, rate)
        if rate > _SPENT * self.peak:
            self.spent_from = -1
        elif self.spent_from < 0:
            self.spent_from = step
        if math.isnan(before):
            self.reference = rate
            return False
        if rate == before:
            self.typical_change *= 1 - _MEMORY
            return False
        if rate > self.reference * (1 + _INCREASE):
            self.raised_at, self.reference = max(self.raised_at, step), rate
        self.reference = min(self.reference, rate)
        floor = _FLOOR * self.peak
        change = abs(math.log(max(rate, floor) / max(before, floor)))
        jumped = change >= _JUMP and change >= _TYPICAL_CHANGES * self.typical_change and not warming
        self.typical_change += _MEMORY * (min(change, _JUMP) - self.typical_change)
        return jumped

    @property
    def ratio(self) -> float | None:
        """The learning rate as a share of its peak; None while none is known."""
        if math.isnan(self.current) or self.peak <= 0:
            return None
        return self.current / self.peak

    def spent(self, step: int, steps: float) -> bool:
        """Whether a schedule has all but ended the training for at least so many steps."""
        return 0 <= self.spent_from <= step - steps
