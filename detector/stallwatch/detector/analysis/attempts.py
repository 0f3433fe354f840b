"""To which attempt of the job a process belongs: the first one, a restart, or a replacement in a running one."""

from __future__ import annotations

from collections.abc import Collection
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
    counted: bool = False
    """Began by the launcher's own count of restarts, which then says better than clocks who belongs to it."""
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
        if (older and not self._is_counted(hello, current)) or self._is_of_an_earlier_launch(hello):
            return Place.STALE
        if current is None and not self._is_of_a_later_launch(hello):
            return Place.JOINS
        goes_on = not self._is_of_a_later_launch(hello) and self._goes_on(hello, incarnations, alive)
        return Place.REPLACES if goes_on else Place.RESTARTS

    def _is_counted(self, hello: RankHello, current: int | None) -> bool:
        """Whether the launcher's own count puts it into this attempt or a later one, whatever the clock said when it started."""
        same = hello.launch_id == self.launch_id and hello.restart_count == self.restart_count
        return self._is_restarted(hello) or (self.counted and same and current is None)

    def _is_restarted(self, hello: RankHello) -> bool:
        same = bool(hello.launch_id) and hello.launch_id == self.launch_id
        return same and hello.restart_count > self.restart_count

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

    def begin(self, hello: RankHello, incarnations: dict[int, int], alive: Collection[int]) -> None:
        """Start the next attempt with this process; `incarnations` are those of the one that is over.

        Of the ranks that are `alive`, some may have been first to come with processes of the new attempt, and taken for such
        as joined the old one: those that started nearer to this process than to the one whose place it takes.
        """
        replaced = incarnations.get(hello.rank)
        for rank, incarnation in incarnations.items():
            came_first = (
                rank in alive
                and replaced is not None
                and abs(incarnation - hello.incarnation) < abs(incarnation - replaced)
            )
            if not came_first:
                self.previous[rank] = max(incarnation, self.previous.get(rank, -1))
        self.counted = self._is_restarted(hello)
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
