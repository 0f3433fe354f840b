"""Data that is missing: which steps of which ranks never came, or came too late to be analysed, and why; bounded.

That steps are missing is seen in what a rank sends: its steps come in order, so what it has passed over will not come any more.
Why is told by what agents and the gateway say they dropped, before or after the hole is seen: such a claim alone makes no gap, for
what an agent gave up may have arrived all the same.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from stallwatch.detector.core.views import GapView

MOST_GAPS = 64
"""More are joined, the nearest first."""
MOST_RANGES = 32
"""Ranges of ranks in one gap; more are joined, the nearest first."""
LATE = "late"
"""Of steps that came after they had been analysed without this rank."""
_SHOWN_RANKS = 64
_CLAIMS = 8
"""Of one rank, that wait for their hole to be seen."""
_ALIKE = 0.5
"""Holes of different ranks are one gap when they share at least this much of their steps."""

Range = tuple[int, int]


@dataclass(slots=True)
class Gap:
    """A hole: steps `from_step` to `to_step`, in the data of some ranks."""

    from_step: int
    to_step: int
    ranks: list[Range]
    reasons: list[str]
    steps: int
    """Rank-steps in it; fewer than its ranks times its steps where their holes differ."""

    @property
    def is_late(self) -> bool:
        """Whether the steps did come, too late."""
        return LATE in self.reasons

    def holds(self, rank: int) -> bool:
        """Whether the hole is in this rank's data."""
        return any(low <= rank <= high for low, high in self.ranks)

    def share(self, first: int, last: int) -> float:
        """How much of the steps of both is in both."""
        both = min(self.to_step, last) - max(self.from_step, first) + 1
        return both / (max(self.to_step, last) - min(self.from_step, first) + 1)

    def touches(self, first: int, last: int) -> bool:
        """Whether the two overlap or follow each other."""
        return first <= self.to_step + 1 and last >= self.from_step - 1

    def take(self, other: Gap) -> None:
        """Become the hull of the two."""
        self.from_step = min(self.from_step, other.from_step)
        self.to_step = max(self.to_step, other.to_step)
        self.ranks = _joined([*self.ranks, *other.ranks])
        self.reasons = sorted({*self.reasons, *other.reasons})
        self.steps += other.steps


@dataclass(slots=True)
class Claim:
    """An agent, or the gateway, says that it dropped something in these steps."""

    reason: str
    from_step: int
    to_step: int


@dataclass(slots=True)
class GapBook:
    """The gaps of a run, by their first step."""

    gaps: list[Gap] = field(default_factory=list)
    claims: dict[int, list[Claim]] = field(default_factory=dict)
    """By rank, what was dropped of steps that its data has not reached yet."""
    unplaced: int = 0
    """Rank-steps that were missing before gaps were kept: nobody knows which."""

    def missing(self, rank: int, first: int, last: int) -> None:
        """The rank has passed over these steps: they will not come."""
        if last < first:
            return
        reasons = {
            claim.reason
            for claim in self.claims.get(rank, ())
            if claim.from_step <= last and claim.to_step >= first
        }
        self._add(Gap(first, last, [(rank, rank)], sorted(reasons), last - first + 1))
        self._forget_claims(rank, last)

    def late(self, rank: int, first: int, last: int, count: int) -> None:
        """Steps of the rank that came after they had been analysed without it."""
        self._add(Gap(first, last, [(rank, rank)], [LATE], count))

    def dropped(self, rank: int, reason: str, first: int, last: int, reached: int) -> None:
        """Something was dropped in these steps; `reached` is the last step that this rank's data has come to."""
        for gap in self.gaps:
            overlaps = first <= gap.to_step and last >= gap.from_step
            if overlaps and not gap.is_late and reason not in gap.reasons and gap.holds(rank):
                gap.reasons = sorted({*gap.reasons, reason})
        if last > reached:
            claims = self.claims.setdefault(rank, [])
            claims.append(Claim(reason, max(first, reached + 1), last))
            del claims[:-_CLAIMS]

    def restart(self) -> None:
        """Another attempt: what was dropped at the end of the one before can be seen by nothing else any more."""
        for rank, claims in sorted(self.claims.items()):
            for claim in claims:
                size = claim.to_step - claim.from_step + 1
                self._add(Gap(claim.from_step, claim.to_step, [(rank, rank)], [claim.reason], size))
        self.claims = {}

    def views(self) -> tuple[GapView, ...]:
        """For the read models."""
        return tuple(_view(gap) for gap in self.gaps)

    def _forget_claims(self, rank: int, reached: int) -> None:
        left = [claim for claim in self.claims.get(rank, ()) if claim.to_step > reached]
        if left:
            self.claims[rank] = left
        else:
            self.claims.pop(rank, None)

    def _add(self, hole: Gap) -> None:
        rank = hole.ranks[0][0]
        for gap in reversed(self.gaps):
            if gap.is_late != hole.is_late:
                continue
            same = gap.ranks == hole.ranks and gap.touches(hole.from_step, hole.to_step)
            other = not gap.holds(rank) and gap.share(hole.from_step, hole.to_step) >= _ALIKE
            if same or other:
                gap.take(hole)
                break
        else:
            self.gaps.append(hole)
        self.gaps.sort(key=lambda gap: (gap.from_step, gap.to_step, gap.ranks))
        while len(self.gaps) > MOST_GAPS:
            self._join_nearest()

    def _join_nearest(self) -> None:
        """Make one gap of the two neighbours between which the fewest steps are that are not missing."""
        between = [
            max(after.from_step - before.to_step, 0) for before, after in itertools.pairwise(self.gaps)
        ]
        place = between.index(min(between))
        self.gaps[place].take(self.gaps.pop(place + 1))


def _joined(ranges: list[Range]) -> list[Range]:
    """The same ranks in as few ranges as there can be, and not more than `MOST_RANGES`."""
    joined: list[Range] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    while len(joined) > MOST_RANGES:
        between = [after[0] - before[1] for before, after in itertools.pairwise(joined)]
        place = between.index(min(between))
        joined[place : place + 2] = [(joined[place][0], joined[place + 1][1])]
    return joined


def _view(gap: Gap) -> GapView:
    ranks = [rank for low, high in gap.ranks for rank in range(low, min(high, low + _SHOWN_RANKS) + 1)]
    return GapView(
        from_step=gap.from_step,
        to_step=gap.to_step,
        ranks=tuple(ranks[:_SHOWN_RANKS]),
        ranks_total=sum(high - low + 1 for low, high in gap.ranks),
        reasons=tuple(gap.reasons),
        steps=gap.steps,
    )
