"""Which installed distributions another one needs, by what their metadata say."""  # noqa: INP001 -- beside the scripts

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement


def normal(name: str) -> str:
    """A distribution's name in the one spelling that there is of it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(name: str, extras: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """By name, what each needs directly, beginning with the one asked for; raises `SystemExit` for what is not installed."""
    needed: dict[str, list[str]] = {}
    waiting = [(normal(name), frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        current, wanted = waiting.pop()
        if (current, wanted) in seen:
            continue
        seen.add((current, wanted))
        try:
            lines = distribution(current).requires or []
        except PackageNotFoundError:
            raise SystemExit(f"{current} is needed and not installed: run `make setup`") from None
        direct = needed.setdefault(current, [])
        for requirement in map(Requirement, lines):
            if not _applies(requirement, wanted):
                continue
            other = normal(requirement.name)
            if other != current and other not in direct:
                direct.append(other)
            waiting.append((other, frozenset(requirement.extras)))
    return needed


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})
