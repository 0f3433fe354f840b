"""To which attempt of the job a process belongs: the first one, a restart, or a replacement in a running one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from stallwatch.detector.core.inputs import RankHello


class Place(Enum):
    """Where a process that says hello belongs."""

    KNOWN = "known"
    """The process that speaks for this rank already: its stream was broken."""
    JOINS = "joins"
    """The first process of this rank in the current attempt."""
    REPLACES = "replaces"
    """Another process of this rank, in a job that goes on."""
    RESTARTS = "restarts"
    """A process of a new attempt."""
    STALE = "stale"
    """A process of an attempt that is over."""


@dataclass(slots=True)
class Attempt:
    """The current incarnation of the job."""

    number: int = 0
    restart_count: int = 0
    launch_id: str = ""
    newest: int = 0
    """Largest incarnation in this attempt."""
    first_step: int = 0
    replaced: set[int] = field(default_factory=set)
    previous: dict[int, int] = field(default_factory=dict)
    """Largest incarnation of each rank in earlier attempts."""

    def place(self, hello: RankHello, incarnations: dict[int, int], alive: int) -> Place:
        """Decide about a hello, given the current processes by rank and how many other ranks are alive."""
        current = incarnations.get(hello.rank)
        if hello.incarnation == current:
            return Place.KNOWN
        if not incarnations and not self.previous:
            return Place.JOINS
        older = hello.incarnation < (current or 0) or hello.incarnation <= self.previous.get(hello.rank, -1)
        if older or self._is_of_an_earlier_launch(hello):
            return Place.STALE
        if current is None and not self._is_of_a_later_launch(hello):
            return Place.JOINS
        goes_on = not self._is_of_a_later_launch(hello) and self._goes_on(hello, incarnations, alive)
        return Place.REPLACES if goes_on else Place.RESTARTS

    def _is_of_another_launch(self, hello: RankHello) -> bool:
        return bool(hello.launch_id) and bool(self.launch_id) and hello.launch_id != self.launch_id

    def _is_of_an_earlier_launch(self, hello: RankHello) -> bool:
        if self._is_of_another_launch(hello):
            return hello.incarnation <= self.newest
        return hello.restart_count < self.restart_count

    def _is_of_a_later_launch(self, hello: RankHello) -> bool:
        return self._is_of_another_launch(hello) or hello.restart_count > self.restart_count

    def _goes_on(self, hello: RankHello, incarnations: dict[int, int], alive: int) -> bool:
        """Whether the launcher names the same launch, most other ranks live, and most are still the first of this attempt."""
        named = bool(hello.launch_id) and hello.launch_id == self.launch_id
        replaced = len(self.replaced | {hello.rank})
        return (
            named and alive > 0 and 2 * alive >= len(incarnations) - 1 and 2 * replaced <= len(incarnations)
        )

    def begin(self, hello: RankHello, incarnations: dict[int, int]) -> None:
        """Start the next attempt with this process; `incarnations` are those of the one that is over."""
        for rank, incarnation in incarnations.items():
            self.previous[rank] = max(incarnation, self.previous.get(rank, -1))
        self.number += 1
        self.restart_count = hello.restart_count
        self.launch_id = hello.launch_id
        self.newest = hello.incarnation
        self.first_step = hello.first_step
        self.replaced = set()

    def take(self, hello: RankHello) -> None:
        """A process of this attempt."""
        self.newest = max(self.newest, hello.incarnation)
        self.launch_id = self.launch_id or hello.launch_id
        self.restart_count = max(self.restart_count, hello.restart_count)
