"""Which batches are safe: those that agents may forget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from stallwatch.detector.analysis.ranks import SequenceLedger
from stallwatch.detector.engine.messages import Progress, RankKey

TOLD_SECONDS = 5.0
"""For so long every poll says what has become durable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a snapshot holds: of each process the last batch accepted, and who has said goodbye."""

    accepted: dict[RankKey, int]
    parting: frozenset[RankKey]


class Durability:
    """Durable is what the snapshot before the last one holds too.

    When the last one turns out to be damaged, agents still have all that the one before lacks.
    """

    def __init__(self, accepted: Callable[[int, int], int], safe: SequenceLedger) -> None:
        """`accepted` tells the last batch accepted of a rank and incarnation; `safe` is what was durable when this life began."""
        self._accepted = accepted
        self._safe = safe
        self._durable: dict[RankKey, int] = {}
        self._saved: dict[RankKey, int] = {}
        """Accepted when the last snapshot was taken, of the processes heard in this life."""
        self._parting: dict[RankKey, int] = {}
        """Processes that said goodbye, with how many snapshots have been taken since."""
        self._moved_at: dict[RankKey, float] = {}
        """When the durable sequence of a process last moved, by the monotonic clock."""

    @property
    def someone_leaves(self) -> bool:
        """Whether a process that said goodbye is not told yet that all it sent is durable."""
        return bool(self._parting)

    @property
    def is_behind(self) -> bool:
        """Whether something that is in the last snapshot is not in the one before."""
        return bool(self._parting) or self._saved != self._durable

    def hear(self, key: RankKey) -> None:
        """Something came from this process: to be said before it is applied."""
        if key not in self._durable:
            # First heard of since the restore: what is known of it came out of the snapshot, and of the one before.
            self._saved[key] = self._accepted(*key)
            self._durable[key] = min(self._safe.get(*key), self._saved[key])

    def part(self, key: RankKey) -> None:
        """It said goodbye."""
        self._parting[key] = 0

    def mark(self) -> Mark:
        """What a snapshot holds that is taken now."""
        return Mark({key: self._accepted(*key) for key in self._saved}, frozenset(self._parting))

    def confirm(self, mark: Mark) -> bool:
        """The snapshot of this mark is on disk: what the one before it holds is durable.

        Whether somebody who said goodbye, and the training for its agent, waits for just one more.
        """
        now = time.monotonic()
        for key, accepted in mark.accepted.items():
            leaves = False
            if key in mark.parting:
                leaves = self._parting.pop(key) > 0
                if not leaves:
                    self._parting[key] = 1
            if leaves or self._durable[key] != self._saved[key]:
                self._durable[key] = self._saved[key]
                self._moved_at[key] = now
            self._saved[key] = accepted
        return any(self._parting.values())

    def progress(self, key: RankKey) -> Progress:
        """What its agent is told."""
        return Progress(*key, self._accepted(*key), self._durable[key], parted=key not in self._parting)

    def moved(self) -> tuple[Progress, ...]:
        """What has become durable lately. Several services may poll, and each is to hear of it."""
        since = time.monotonic() - TOLD_SECONDS
        self._moved_at = {key: at for key, at in self._moved_at.items() if at > since}
        return tuple(self.progress(key) for key in self._moved_at)
