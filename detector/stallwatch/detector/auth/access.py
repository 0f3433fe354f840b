"""What somebody may do: scopes, and the runs that they hold for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Scope(str, Enum):
    """What a token is for."""

    WRITE = "write"
    """Stream the telemetry of a run."""
    READ = "read"
    """Read the API, the page and, for all runs, /metrics."""
    ADMINISTER = "administer"
    """Read, and set and end silences."""


EVERY_RUN = "*"
_INCLUDED = {Scope.READ: frozenset({Scope.READ, Scope.ADMINISTER})}
"""Who may silence must see what is silenced."""
LIMITS = ("max_streams", "max_bytes_per_second", "max_runs")
"""What may be limited of an account: fields of a token, and of `Principal`."""
_WILDCARDS = frozenset("*?[")
"""Of the patterns of silences, which are those of `fnmatch`."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose token was accepted."""

    name: str
    """The token's name: the account that streams are counted for. Empty where no token is asked for."""
    scopes: frozenset[Scope]
    runs: tuple[str, ...] = (EVERY_RUN,)
    """Patterns of run names, in which `*` stands for anything, the empty text included."""
    max_streams: int | None = None
    """Ranks connected at the same time; None: no limit of its own."""
    max_bytes_per_second: int | None = None
    """Telemetry received; None: no limit of its own."""
    max_runs: int | None = None
    """Runs watched at the same time that it opened; None: no limit of its own."""

    def has(self, scope: Scope) -> bool:
        """Whether it may do this to some run at all."""
        return not self.scopes.isdisjoint(_INCLUDED.get(scope, frozenset({scope})))

    def may(self, scope: Scope, run: str) -> bool:
        """Whether it may do this to a run."""
        return self.has(scope) and any(matches(pattern, run) for pattern in self.runs)

    def may_everywhere(self, scope: Scope) -> bool:
        """Whether it may do this to every run there will ever be."""
        return self.has(scope) and EVERY_RUN in self.runs

    def may_pattern(self, scope: Scope, pattern: str | None) -> bool:
        """Whether it may do this to every run that a silence's pattern covers; None covers all."""
        if self.may_everywhere(scope):
            return True
        if pattern is None or not self.has(scope):
            return False
        return any(_covers(own, pattern) for own in self.runs)


EVERYBODY = Principal("", frozenset(Scope))
"""Where no tokens are set."""
READERS = Principal("", frozenset({Scope.READ}))
"""Where reading needs no token."""


def matches(pattern: str, run: str) -> bool:
    """Whether a pattern covers a name: `*` is anything, every other character itself, in its own case.

    Takes time in proportion to the lengths: there is no way back as in a regular expression.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return run == pattern
    *middle, last = rest
    if len(run) < len(first) + len(last) or not run.startswith(first) or not run.endswith(last):
        return False
    return _in_order(middle, run[len(first) : len(run) - len(last)])


def _in_order(parts: Sequence[str], text: str) -> bool:
    at = 0
    for part in parts:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _covers(own: str, pattern: str) -> bool:
    """Whether every name that `pattern` covers is covered by `own`; no where that is not certain.

    The pattern taken as a text: what stands in it at a `*` of ours may become anything, and the rest are characters
    that stand for themselves, as long as ours holds none that means more in the pattern.
    """
    if _WILDCARDS.isdisjoint(pattern):
        return matches(own, pattern)
    return _WILDCARDS.isdisjoint(own.replace("*", "")) and matches(own, pattern)
