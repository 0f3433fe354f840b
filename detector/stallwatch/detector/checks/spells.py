"""Spells: excesses of this run that went away by themselves, and what they teach about how long one has to last."""

from __future__ import annotations

from dataclasses import dataclass, field

_KEPT = 16


@dataclass(slots=True)
class Spells:
    """The longest spells by size; a new excess counts once it has outlasted those of its size by a factor.

    Take the lengths of spells to be independent and exponential. After n of them the chance that the next one lasts twice as
    long as the longest is 2 / ((n + 1) (n + 2)), which sums to less than one over an endless run, whatever their mean: a
    machine that disturbs its jobs for seconds at a time is believed once or twice, not for ever.
    """

    sizes: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)

    def add(self, size: float, length: float) -> None:
        """One has gone away."""
        kept = [
            (s, n)
            for s, n in zip(self.sizes, self.lengths, strict=True)
            # One that was both smaller and shorter teaches nothing more.
            if s > size or n > length
        ]
        if not any(s >= size and n >= length for s, n in kept):
            kept.append((size, length))
        kept = sorted(kept, key=lambda spell: -spell[1])[:_KEPT]
        self.sizes = [s for s, _ in kept]
        self.lengths = [n for _, n in kept]

    def longest(self, size: float) -> float:
        """The longest one that was at least half as large; 0 when there was none."""
        return max((n for s, n in zip(self.sizes, self.lengths, strict=True) if s >= size / 2), default=0.0)
