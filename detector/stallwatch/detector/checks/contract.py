"""The contract of a check and of a signal: two one-method protocols.

A *signal* turns observations into derived observations that several checks share (the loss model, for one). A *check* turns
observations into verdicts. Both are plain dataclasses whose fields are their whole state, so that one generic codec
snapshots and restores all of them; `config` is frozen and not part of the state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol, runtime_checkable

from stallwatch.detector.core.verdicts import Verdict


@runtime_checkable
class Signal(Protocol):
    """Derives observations from observations."""

    consumes: ClassVar[tuple[type, ...]]

    def update(self, observation: object) -> Iterable[object]:
        """Take one observation of a type in `consumes`; return the derived ones, in order."""
        ...


@runtime_checkable
class Check(Protocol):
    """Decides about one kind of finding."""

    kind: ClassVar[str]
    consumes: ClassVar[tuple[type, ...]]

    def update(self, observation: object) -> Verdict | None:
        """Take one observation of a type in `consumes`; return a verdict, or None while nothing changed."""
        ...
