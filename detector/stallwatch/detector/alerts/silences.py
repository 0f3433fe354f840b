"""Silences: no alert about a run, or a kind of finding, until a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Silence:
    """Who is kept quiet, until when, and why."""

    id: str
    run: str | None
    """A run's name, or a pattern with `*`, `?` and `[...]`; None for every run."""
    kind: str | None
    """A kind of finding; None for every kind."""
    comment: str
    created_at: float
    """Unix seconds, and below."""
    expires_at: float

    def is_active(self, now: float) -> bool:
        """Whether it holds now."""
        return now < self.expires_at

    def covers(self, run: str, kind: str) -> bool:
        """Whether it is about this run and this kind."""
        return (self.run is None or fnmatchcase(run, self.run)) and self.kind in {None, kind}


def silenced_by(silences: Iterable[Silence], run: str, kind: str, now: float) -> Silence | None:
    """The silence that holds longest for a finding now, if there is one."""
    holding = [each for each in silences if each.is_active(now) and each.covers(run, kind)]
    return max(holding, key=lambda each: (each.expires_at, each.id), default=None)
