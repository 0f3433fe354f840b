"""How much of its time each rank's training thread was ready to run and waited for a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.liveness import LivenessObservation

_KEPT = 3
"""Spans kept of each rank: heartbeats are a little ahead of the steps that are judged."""
_INSIDE = 0.4
"""Share of a span that must lie in the time in question: spans are as long as heartbeats are apart."""


def _shares() -> NDArray[np.float64]:
    return np.full((_KEPT, 0), np.nan)


def _steps() -> NDArray[np.int64]:
    return np.full((_KEPT, 0), -1, np.int64)


@dataclass(slots=True)
class CpuWaits:
    """The latest spans between two heartbeats, shape (spans, ranks), newest first.

    The kernel counts how long a thread was runnable without running. On a machine with more threads than cores that is what
    holds a rank back for a moment, and then another one; a rank that is slow for a reason of its own does not wait for a CPU
    more than the others do.
    """

    share: NDArray[np.float64] = field(default_factory=_shares)
    """Of the span's wall time; NaN where unknown."""
    first_step: NDArray[np.int64] = field(default_factory=_steps)
    last_step: NDArray[np.int64] = field(default_factory=_steps)
    """The steps that the span covers: after the first, up to and including the last."""

    def take(self, seen: LivenessObservation) -> None:
        """One tick."""
        if not seen.cpu_wait_share.size or not seen.ranks:
            return
        missing = seen.ranks[-1] + 1 - self.share.shape[1]
        if missing > 0:
            self.share = np.hstack([self.share, np.full((_KEPT, missing), np.nan)])
            self.first_step = np.hstack([self.first_step, np.full((_KEPT, missing), -1)])
            self.last_step = np.hstack([self.last_step, np.full((_KEPT, missing), -1)])
        index = np.array(seen.ranks, np.int64)
        # A span that covers no step is a job that stands still: not what is judged here.
        new = (seen.cpu_wait_to > self.last_step[0, index]) & (seen.cpu_wait_to > seen.cpu_wait_from)
        if not new.any():
            return
        where = index[new]
        for kept, latest in (
            (self.share, seen.cpu_wait_share),
            (self.first_step, seen.cpu_wait_from),
            (self.last_step, seen.cpu_wait_to),
        ):
            kept[1:, where] = kept[:-1, where]
            kept[0, where] = latest[new]

    def forget(self) -> None:
        """The processes are gone."""
        self.share, self.first_step, self.last_step = _shares(), _steps(), _steps()

    def knows(self, rank: int) -> bool:
        """Whether this rank's agent tells."""
        return rank < self.share.shape[1] and bool(np.isfinite(self.share[0, rank]))

    def beyond_others(self, rank: int, since: int, until: int) -> float | None:
        """Share of its time that a rank waited for a CPU more than the others, over some steps; None while no span tells."""
        if not self.knows(rank):
            return None
        first, last = self.first_step[:, rank], self.last_step[:, rank]
        length = np.maximum(last - first, 1)
        inside = (np.minimum(last, until) - np.maximum(first, since - 1)) / length
        usable = np.flatnonzero((inside >= _INSIDE) & np.isfinite(self.share[:, rank]))
        if not usable.size:
            return None
        others = np.delete(self.share, rank, axis=1)
        more, weight = 0.0, 0.0
        for span in usable.tolist():
            known = others[span][np.isfinite(others[span])]
            usual = float(np.median(known)) if known.size else 0.0
            # What lies outside has not waited more than the others, as far as anybody knows.
            extra = max(float(self.share[span, rank]) - usual, 0.0) / min(float(inside[span]), 1.0)
            share = float(inside[span] * length[span])
            more, weight = more + share * extra, weight + share
        return more / weight
