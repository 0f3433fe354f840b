"""`python tests/reliability/kill_service.py [--kills 10] [--seed N]`: kill -9 of a whole detector, or of its analyzer, while ranks stream.

Three ranks send on and on; the detector is killed at a random moment and started again, now and then with its newest snapshot
damaged in between. At the end every step of every rank was counted once, none is missing, and the finding that was open at the
beginning is the same. Exits with 1 when it is not so.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reliability.old_store import spoil_newest
from support.rank import Rank, hello, steps
from support.service import Service
from support.waiting import wait_until

RUN = "team/killed:1"
WORLD = 3
STEPS = 10
LONGEST_SECONDS = 4.0
"""Between two kills."""


class Stream:
    """Three ranks that send a batch each, fifty times a second, until told to stop."""

    def __init__(self, address: str) -> None:
        self.ranks = [Rank(address, hello(RUN, number, WORLD)) for number in range(WORLD)]
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for rank in self.ranks:
                block = steps(self.sent * STEPS, STEPS)
                if rank.hello.rank == 0 and self.sent % 2:
                    block.loss_sum[3] = math.nan
                rank.send(block)
            self.sent += 1

    def finish(self) -> int:
        """Stop, have everything safe, say goodbye; return how many steps each rank has sent."""
        self._stop.set()
        self._thread.join()
        for rank in self.ranks:
            rank.wait_durable(seconds=120.0)
        for rank in self.ranks:
            rank.finish()
        return self.sent * STEPS


def path(part: str = "") -> str:
    """Of the run in the API."""
    return f"/api/v1/runs/{quote(RUN, safe='')}{part}"


def the_finding(service: Service) -> Any:
    """The one that NaNs opened; None while there is none."""
    answer = service.get(path("/findings?status=all"))
    found = [one for one in answer["findings"] if one["kind"] == "non_finite"] if answer else []
    return found[0] if found else None


def kill_once(service: Service, stream: Stream, rng: random.Random, done: Counter[str]) -> None:
    """After a random while, the analyzer or everything; then until agents are back and go on."""
    moment = time.monotonic() + rng.uniform(0.0, LONGEST_SECONDS)
    wait_until("a random moment", lambda: time.monotonic() >= moment, interval=0.005)
    before = [rank.connections for rank in stream.ranks]
    pids = analyzers(service) if rng.random() < 0.3 else []
    if pids:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        done["analyzer"] += 1
    else:
        service.kill()
        done["service"] += 1
        if rng.random() < 0.4 and spoil_newest(service.directory / "stallwatch.db", rng):
            done["with a damaged snapshot"] += 1
        service.start()
    wait_until(
        "the agents to be back",
        lambda: all(rank.connections > was for rank, was in zip(stream.ranks, before, strict=True)),
        120.0,
    )
    safe = [rank.durable for rank in stream.ranks]
    # Two snapshots of this life are there: of one that is damaged, the other is left.
    wait_until(
        "something to be safe",
        lambda: all(rank.durable > was for rank, was in zip(stream.ranks, safe, strict=True)),
        120.0,
    )


def analyzers(service: Service) -> list[int]:
    """The analyzers' processes of this service: theirs is its session, or one of its descendants'."""
    import psutil

    assert service.process is not None
    children = psutil.Process(service.process.pid).children(recursive=True)
    return [each.pid for each in children if " ".join(each.cmdline()).startswith("ray::RunAnalyzer")]


def check(service: Service, total: int, before: Any) -> None:
    """Every step once, nothing missing, the same finding."""
    wait_until("the end", lambda: service.get(path())["state"] == "finished")
    for rank in service.get(path("/ranks"))["ranks"]:
        counted = (rank["steps_received"], rank["steps_missing"], rank["last_step"])
        assert counted == (total, 0, total - 1), rank
    assert service.get(path("/gaps"))["gaps"] == []
    after = the_finding(service)
    assert (after["id"], after["since_step"]) == (before["id"], before["since_step"]), after


def kill_all(directory: Path, kills: int, seed: int) -> tuple[Counter[str], int]:
    """So many kills in one run; what was killed, and how many steps each rank has sent."""
    rng, done = random.Random(seed), Counter[str]()
    with Service(directory) as service:
        stream = Stream(service.grpc_address)
        before = wait_until("the finding", lambda: the_finding(service))
        for _ in range(kills):
            kill_once(service, stream, rng, done)
        total = stream.finish()
        check(service, total, before)
    return done, total


def main() -> int:
    """Kill, compare, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        try:
            done, total = kill_all(Path(directory), chosen.kills, chosen.seed)
        except AssertionError as error:
            sys.stdout.write(f"seed {chosen.seed}: {error}\n")
            return 1
    killed = ", ".join(f"{what} {count}" for what, count in sorted(done.items()))
    sys.stdout.write(
        f"seed {chosen.seed}: {chosen.kills} kills ({killed}) while {WORLD} ranks streamed {total:,} steps each: "
        f"every step counted once, none missing, the finding the same ({time.monotonic() - started:.0f} s)\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
