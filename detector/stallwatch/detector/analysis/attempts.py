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
        if not incarnations and not self.previous:
            return Place.JOINS
        current = incarnations.get(hello.rank)
        if hello.incarnation == current:
            return Place.KNOWN
        if hello.incarnation < (current or 0) or hello.incarnation <= self.previous.get(hello.rank, -1):
            return Place.STALE
        same_launch = hello.launch_id == self.launch_id or not hello.launch_id or not self.launch_id
        if hello.restart_count > self.restart_count and same_launch:
            return Place.RESTARTS
        if not same_launch:
            return Place.RESTARTS if hello.incarnation > self.newest else Place.STALE
        if hello.restart_count < self.restart_count:
            return Place.STALE
        if current is None:
            return Place.JOINS
        named = bool(hello.launch_id) and hello.launch_id == self.launch_id
        most_replaced = 2 * (len(self.replaced | {hello.rank})) > len(incarnations)
        if named and 2 * alive >= len(incarnations) - 1 and alive > 0 and not most_replaced:
            return Place.REPLACES
        return Place.RESTARTS

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
