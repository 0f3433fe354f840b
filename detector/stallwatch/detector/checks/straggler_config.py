"""Settings of the straggler check."""

from __future__ import annotations

import math
from dataclasses import dataclass

_PAIR = 8


@dataclass(frozen=True, slots=True)
class StragglerConfig:
    """Settings of the straggler check."""

    window_steps: int = 10
    """Steps that are reduced to one mean a rank."""
    windows: int = 5
    """Windows in a row over which a rank must stand out, at least."""
    longest_windows: int = 18
    """Where steps are noisy, so many windows together may show what fewer do not."""
    excess_share: float = 0.05
    """What the others lose to it, at least, as a share of the step: machines of one kind differ lastingly by one or two percent,
    and the slowest of a few by twice that."""
    excess_seconds: float = 0.0005
    """... and in seconds: below that it is the scheduler of the machine."""
    z: float = 6.0
    """How many standard errors it must stand out by, over ranks and over windows, in a job of eight ranks: see `bar`."""
    lead_share: float = 0.7
    """Share of the steps on which it must be behind the median of the others."""
    spread_share: float = 0.002
    """The spread over ranks is taken to be at least this share of the step."""
    own_share: float = 0.5
    """At least this share of the excess must be the rank's own, not its waiting for a CPU."""
    settle_seconds: float = 10.0
    """How long an excess must have lasted where nothing is known of waiting for a CPU."""
    contended_seconds: float = 30.0
    """... and where waiting for a CPU explains it: another process may take that CPU for a while, and no longer."""
    drastic_share: float = 0.4
    """Waiting for data by more than this share of the step is no scheduler's doing, whatever is known."""
    spell_factor: float = 2.0
    """An excess must outlast those of its size that went away by this factor."""
    resolve_windows: int = 6
    """Windows in a row with less than half of it that resolve the finding."""

    def __post_init__(self) -> None:
        for name in ("windows", "resolve_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.longest_windows < self.windows:
            raise ValueError("longest_windows must be at least windows")
        if self.window_steps < 5:
            raise ValueError(
                f"window_steps must be at least 5, not {self.window_steps}: a mean without the extremes needs as many"
            )
        if not 0 < self.excess_share < 1 or not 0 < self.lead_share <= 1 or not 0 < self.own_share <= 1:
            raise ValueError("excess_share, lead_share and own_share must be shares between 0 and 1")
        if not self.z > 0 or not self.spell_factor >= 1:
            raise ValueError("z must be above 0 and spell_factor at least 1")
        if not 0 < self.settle_seconds <= self.contended_seconds:
            raise ValueError("settle_seconds must be above 0 and at most contended_seconds")

    def bar(self, ranks: int) -> float:
        """Standard errors asked for among so many ranks: a normal tail as rare over all of them as `z` is over eight.

        >>> round(StragglerConfig().bar(4), 2), round(StragglerConfig().bar(16384), 2)
        (6.0, 7.16)
        """
        return math.sqrt(self.z**2 + 2 * math.log(max(ranks, _PAIR) / _PAIR))

    def lengths(self) -> tuple[int, ...]:
        """Numbers of windows that are looked at together."""
        return tuple(
            sorted({self.windows, *(n for n in (6, 8, 12, 18) if self.windows < n <= self.longest_windows)})
        )
