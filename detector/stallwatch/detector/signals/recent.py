"""The latest raw values of a series: what is normal now, and what is wild."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stallwatch.detector.stats.robust import median_and_sigma


@dataclass(slots=True)
class RecentValues:
    """A short window of raw values, and limits beyond which a value is wild."""

    size: int = 256
    window: int = 64
    """Values that decide what is normal."""
    wild_sigmas: float = 8.0
    values: list[float] = field(default_factory=list)
    count: int = 0
    low: float = -float("inf")
    high: float = float("inf")

    def add(self, value: float) -> None:
        """Take one raw, finite value; every 16th renews the limits."""
        self.values.append(value)
        self.count += 1
        if len(self.values) >= 2 * self.size:
            del self.values[: self.size]
        if self.count >= 32 and self.count % 16 == 0:
            median, sigma = median_and_sigma(np.array(self.values[-self.window :]))
            if sigma > 0:
                self.low, self.high = median - self.wild_sigmas * sigma, median + self.wild_sigmas * sigma

    @property
    def latest(self) -> float | None:
        """The latest value."""
        return self.values[-1] if self.values else None

    def clip(self, value: float) -> float:
        """The value moved to the nearest limit when it is wild."""
        return min(max(value, self.low), self.high)
