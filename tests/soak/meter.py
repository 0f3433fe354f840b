"""Memory, threads, files and tasks of processes over time, and whether they grow."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from scipy.stats import theilslopes

MOST_GROWTH = 0.05
"""Of memory, over the time after warm-up, by a straight line through all samples."""
MOST_MORE = 3.0
"""Threads, files or tasks: those of the run that may be open more at the end than at the beginning."""
LEAST_SAMPLES = 10
PARTS = 10
"""Of the time: of threads and files the least in each is taken. What comes and goes with requests and runs is not left behind."""
LATE = 2
"""Parts at the end that are also compared with the middle of all."""


@dataclass(frozen=True, slots=True)
class Trend:
    """One quantity of one process after warm-up."""

    what: str
    samples: int
    first: float
    last: float
    """Of the line."""

    @property
    def growth(self) -> float:
        """As a share of where it began."""
        return (self.last - self.first) / max(self.first, 1.0)

    @property
    def is_flat(self) -> bool:
        """Whether it does not grow."""
        if self.what.endswith("bytes"):
            return self.growth <= MOST_GROWTH
        return self.last - self.first <= max(MOST_MORE, MOST_GROWTH * self.first)


class Meter:
    """Samples of named processes; another process under the same name begins anew.

    `rests` are what is left after a deduction, as of what streams and runs hold. For a moment the deduction can be too much, as when
    a stream is counted before its tasks are there: of these the median of each part is taken, not the least.
    """

    def __init__(
        self, processes: Callable[[], Iterable[tuple[str, psutil.Process]]], rests: Collection[str] = ()
    ) -> None:
        self._processes = processes
        self._rests = rests
        self._samples: dict[tuple[str, int, str], list[tuple[float, float]]] = defaultdict(list)

    def sample(self) -> None:
        """Look at all of them now."""
        now = time.monotonic()
        # Any of them may end at any time.
        with suppress(psutil.Error):
            for name, process in self._processes():
                with suppress(psutil.Error):
                    with process.oneshot():
                        self.add(name, process.pid, "bytes", process.memory_info().rss, now)
                        self.add(name, process.pid, "threads", process.num_threads(), now)
                    self.add(name, process.pid, "files", process.num_fds(), now)

    def add(self, name: str, pid: int, what: str, value: float, now: float) -> None:
        """One sample of anything."""
        self._samples[name, pid, what].append((now, value))

    def write(self, path: Path) -> None:
        """All samples as CSV: to look at what grew."""
        rows = [
            f"{at:.1f},{name},{pid},{what},{value:g}\n"
            for (name, pid, what), samples in sorted(self._samples.items())
            for at, value in samples
        ]
        path.write_text("".join(["seconds,process,pid,what,value\n", *rows]))

    def trends(self, since: float, until: float) -> list[Trend]:
        """Of processes that lived through the whole of this time (monotonic seconds)."""
        found = []
        for (name, _pid, what), samples in sorted(self._samples.items()):
            kept = [(at, value) for at, value in samples if since <= at <= until]
            if len(kept) < LEAST_SAMPLES or kept[-1][0] - kept[0][0] < 0.8 * (until - since):
                continue
            if what == "bytes":
                slope, level = np.polyfit(*_columns(kept, since), 1)
            else:
                # By the median of all slopes (Theil 1950, Sen 1968): a rank has few threads and files while it is between two
                # connections, and one part of the time that begins or ends so is no growth.
                stands_for = np.median if what in self._rests else np.min
                at, values = _columns(_parts(kept, since, until, stands_for), since)
                slope, level = theilslopes(values, at)[:2]
                # What came late and stayed does not move that median.
                slope = max(slope, (values[-LATE:].min() - np.median(values)) / (until - since))
            found.append(Trend(f"{name} {what}", len(kept), level, level + slope * (until - since)))
        return found


def _columns(samples: list[tuple[float, float]], since: float) -> tuple[np.ndarray, np.ndarray]:
    """When, from the beginning on, and what."""
    at, values = np.array(samples).T
    return at - since, values


def _parts(
    samples: list[tuple[float, float]], since: float, until: float, stands_for: Callable[[list[float]], float]
) -> list[tuple[float, float]]:
    """What stands for each part of the time that has a sample, in the middle of the part."""
    parts: dict[int, list[float]] = defaultdict(list)
    for at, value in samples:
        parts[min(PARTS - 1, int(PARTS * (at - since) / (until - since)))].append(value)
    return [
        (since + (part + 0.5) / PARTS * (until - since), stands_for(of_part))
        for part, of_part in parts.items()
    ]
