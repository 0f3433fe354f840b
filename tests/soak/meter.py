"""Memory, threads, files and tasks of processes over time, and whether they grow."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil

MOST_GROWTH = 0.05
"""Of memory, over the time after warm-up, by a straight line through all samples."""
MOST_MORE = 3.0
"""Threads, files or tasks: those of a reader or two more at the end than at the beginning."""
LEAST_SAMPLES = 10
LOAD = {"streams": "stallwatch_ingest_streams", "runs": "stallwatch_analyzer_runs"}
"""What a service has to have threads, files and tasks for."""
HELD = {
    "threads": "stallwatch_detector_threads",
    "files": "stallwatch_detector_open_files",
    "tasks": "stallwatch_detector_tasks",
}


@dataclass(frozen=True, slots=True)
class Trend:
    """One quantity of one process after warm-up."""

    what: str
    samples: int
    first: float
    last: float
    """Of the line, at the mean load."""

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
    """Samples of named processes; another process under the same name begins anew."""

    def __init__(
        self, processes: Callable[[], Iterable[tuple[str, psutil.Process]]], scraped: Container[str] = ()
    ) -> None:
        self._processes = processes
        self._scraped = scraped
        self._samples: dict[tuple[str, int, str], list[tuple[float, ...]]] = defaultdict(list)

    def sample(self) -> None:
        """Look at all of them now."""
        now = time.monotonic()
        # Any of them may end at any time.
        with suppress(psutil.Error):
            for name, process in self._processes():
                with suppress(psutil.Error), process.oneshot():
                    self.add(name, process.pid, "bytes", process.memory_info().rss, now)
                    if name not in self._scraped:
                        self.add(name, process.pid, "threads", process.num_threads(), now)
                        self.add(name, process.pid, "files", process.num_fds(), now)

    def add(self, name: str, pid: int, what: str, value: float, now: float, *load: float) -> None:
        """One sample of anything, with how much there was to do: what grows with that alone does not grow with time."""
        self._samples[name, pid, what].append((now, value, *load))

    def add_scrape(self, name: str, pid: int, text: str) -> None:
        """What a service says that it holds, with the load that it says it has."""
        now = time.monotonic()
        told = dict(re.findall(r"^(stallwatch_\w+) (\S+)$", text, re.MULTILINE))
        if told:
            load = [float(told[metric]) for metric in LOAD.values()]
            for what, metric in HELD.items():
                self.add(name, pid, what, float(told[metric]), now, *load)

    def trends(self, since: float, until: float) -> list[Trend]:
        """Of processes that lived through the whole of this time (monotonic seconds)."""
        found = []
        for (name, _pid, what), samples in sorted(self._samples.items()):
            kept = [sample for sample in samples if since <= sample[0] <= until]
            if len(kept) < LEAST_SAMPLES or kept[-1][0] - kept[0][0] < 0.8 * (until - since):
                continue
            at, values, *load = np.array(kept).T
            terms = [np.ones_like(at), at - since, *(each - each.mean() for each in load)]
            level, slope = np.linalg.lstsq(np.array(terms).T, values)[0][:2]
            found.append(Trend(f"{name} {what}", len(kept), level, level + slope * (until - since)))
        return found
