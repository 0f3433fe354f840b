"""Rules of other tools: fixed thresholds, one hit at a time, no memory of what they said before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class RuleHit:
    """A rule that holds at a step."""

    step: int
    text: str


class Rule(Protocol):
    """One rule, with its name and defaults in the tool that it comes from."""

    name: ClassVar[str]
    consumes: ClassVar[tuple[type, ...]]

    def update(self, observation: object) -> RuleHit | None:
        """Take one observation of a type in `consumes`."""
        ...
