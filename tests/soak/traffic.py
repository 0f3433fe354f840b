"""Runs that start, train and finish all the time, over the real protocol."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Rank, hello, steps

BATCH_STEPS = 10
PACE_SECONDS = 1.0
"""Between two batches of a rank: steps take the 0.1 s that they say they take."""
DELIVERY_SECONDS = 240.0
"""For all to be durable when a run ends: the detector may have been killed a moment ago."""


def learning_loss(step: int) -> float:
    """Falls by a power of the step: at no length of the run does it look as if it had stopped."""
    noise = (step * 2_654_435_761 % 1_000) / 1_000 - 0.5
    return 4.0 * (1 + step / 50) ** -0.4 * (1 + 0.02 * noise)


def block(number: int, *, sick: bool) -> pb.StepBatch:
    """The steps of a batch; of a sick rank, one has a loss of NaN."""
    first = number * BATCH_STEPS
    told = steps(first, BATCH_STEPS)
    told.loss_sum[:] = [8.0 * learning_loss(step) for step in range(first, first + BATCH_STEPS)]
    if sick:
        told.loss_sum[3] = math.nan
    return told


@dataclass
class SoakRun:
    """One run with all its ranks in this process."""

    name: str
    address: str
    ranks: int
    ends_at: float
    """Monotonic seconds; infinite for one that lasts to the end."""
    sick: bool = False
    batches: int = 0
    finished: bool = False
    problem: str = ""
    open: list[Rank] = field(default_factory=list)

    def begin(self) -> None:
        """Connect."""
        incarnation = time.time_ns()
        self.open = [
            Rank(self.address, hello(self.name, rank, self.ranks, incarnation=incarnation + rank))
            for rank in range(self.ranks)
        ]

    def send(self) -> None:
        """One batch of each rank."""
        for rank in self.open:
            rank.send(block(self.batches, sick=self.sick and rank.hello.rank == 0 and self.batches >= 2))
        self.batches += 1

    def finish(self) -> None:
        """Say goodbye, and deliver everything."""

        def leave(rank: Rank) -> None:
            try:
                rank.leave(DELIVERY_SECONDS)
            except AssertionError as error:
                self.problem = str(error)

        # All at once: a rank that stays behind without a step looks as if it hung.
        leaving = [threading.Thread(target=leave, args=(rank,), daemon=True) for rank in self.open]
        for thread in leaving:
            thread.start()
        for thread in leaving:
            thread.join()
        self.finished = True

    @property
    def steps(self) -> int:
        """What each rank has sent."""
        return self.batches * BATCH_STEPS


class Traffic:
    """Sends for all runs at one pace, and starts a new one every so often."""

    def __init__(
        self, addresses: list[str], *, new_seconds: float, life_seconds: float, lasting: int
    ) -> None:
        self._addresses = itertools.cycle(addresses)
        self._new_seconds, self._life_seconds = new_seconds, life_seconds
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._finishing: list[threading.Thread] = []
        self.runs: list[SoakRun] = []
        for number in range(lasting):
            self._begin(f"soak/lasting-{number}", math.inf)
        self._begin("soak/sick", math.inf, sick=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more, and let every run finish."""
        self._stop.set()
        self._thread.join()
        for run in self.runs:
            if run.open and not run.finished:
                self._finish(run)
        for thread in self._finishing:
            thread.join(DELIVERY_SECONDS + 60)

    def _begin(self, name: str, ends_at: float, *, sick: bool = False) -> None:
        run = SoakRun(name, next(self._addresses), 2, ends_at, sick)
        run.begin()
        self.runs.append(run)

    def _finish(self, run: SoakRun) -> None:
        run.ends_at = -math.inf
        thread = threading.Thread(target=run.finish, daemon=True)
        thread.start()
        self._finishing.append(thread)

    def _run(self) -> None:
        next_run = time.monotonic()
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + PACE_SECONDS, time.monotonic())
            now = time.monotonic()
            if now >= next_run:
                next_run = now + self._new_seconds
                number = next(self._numbers)
                self._begin(f"soak/short-{number}", now + self._life_seconds, sick=number % 4 == 0)
            for run in self.runs:
                if now < run.ends_at:
                    run.send()
                elif run.ends_at > -math.inf:
                    self._finish(run)


def every(seconds: float, act: Callable[[], None], stop: threading.Event) -> threading.Thread:
    """Do something again and again until told to stop."""

    def run() -> None:
        while not stop.wait(seconds):
            act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
