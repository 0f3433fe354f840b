"""Feeds a scripted job to an analyzer that is killed at random moments, and compares what comes out with an undisturbed twin."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import msgspec

from reliability.agents import Agents
from reliability.life import Mark, live
from reliability.old_store import as_last_minor_version, spoil_newest
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.engine.messages import AnalyzerSettings, IngestResult, PollResult
from stallwatch.detector.engine.recording import recording_path
from stallwatch.detector.engine.replay import replay
from stallwatch.detector.store import Store, sqlite_url
from support.scripted_job import scripted_job

RUN = "team/scripted"
REPLY_SECONDS = 60.0
STARTING = ("restore", "migration")
RUNNING = ("ingest", "snapshot")
TESTS = Path(__file__).resolve().parents[1]


class KilledError(Exception):
    """The life that was asked is no more."""


@dataclass
class Tally:
    """What has been done so far."""

    kills: Counter[str] = field(default_factory=Counter)
    """By what they hit."""
    jobs: int = 0
    lives: int = 0
    spoiled: int = 0
    """Lives that began with a damaged newest snapshot."""
    resent: int = 0
    """Inputs that were sent again."""
    durations: dict[str, float] = field(default_factory=dict)
    """Of phases, in seconds: what kills are spread over."""


class Job:
    """One scripted job, from its first hello until everything is durable."""

    def __init__(
        self,
        directory: Path,
        tally: Tally,
        seed: int,
        kills: int,
        *,
        ranks: int,
        batches: int,
        migrates: bool,
    ) -> None:
        self.rng = random.Random(seed)
        self.tally = tally
        self.kills_left = kills
        self.migrates = migrates
        lost = () if migrates else ((0, 1, batches // 3), (1, 0, batches // 2), (1, 0, batches // 2 + 1))
        self.script = list(scripted_job(RUN, ranks, batches, attempts=2, lost=lost, seed=seed))
        self.agents = Agents(self.script)
        self.database = directory / "stallwatch.db"
        self.settings = AnalyzerSettings(
            sqlite_url(directory), snapshot_seconds=1e-9, record_directory=str(directory / "recordings")
        )
        self.mark = Mark(directory / "mark")
        self.mark_path = directory / "mark"
        self.process: ForkServerProcess | None = None
        self.pipe: Connection | None = None
        self.target: str | None = None
        self.migrating = False
        self.may_spoil = False
        """Two snapshots are there that nobody has damaged yet: of one that is lost, the other is left."""
        self.messages_left = 0
        self.at_goodbye = False
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["reliability.life"])
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        self.context = context

    def run(self) -> bytes:
        """All lives, until the job is over; the state at its end."""
        self.tally.jobs += 1
        while (state := self._live_on()) is None:
            pass
        return state

    def _live_on(self) -> bytes | None:
        try:
            return self._live()
        except KilledError:
            return None

    def _live(self) -> bytes:
        self._choose()
        now = self._start()
        hellos, places = self.agents.reconnect(now)
        self.tally.resent += len(places)
        self._ingest(hellos)
        self._feed(places)
        while self.agents.reached < len(self.script):
            place = self.agents.reached
            if self.agents.must_wait(place):
                # Time stands still meanwhile: the next tick of the script is that of the twin.
                self._poll(now=0.0)
            else:
                self._feed([place])
        while not all(process.over for process in self.agents.processes.values()):
            self._poll(now=0.0)
        self.kills_left = 0
        state = self._ask("end", None)
        assert isinstance(state, bytes)
        assert self.process is not None
        self.process.join()
        return state

    # What is sent

    def _feed(self, places: list[int]) -> None:
        waiting = []
        for place in places:
            item = self.agents.send(place)
            if item is None:
                continue
            if item.WhichOneof("input") == "tick":
                self._ingest(waiting)
                waiting = []
                self._poll(item.received_unix_seconds)
                continue
            waiting.append(item)
            if item.WhichOneof("input") == "batch" and self.rng.random() < 0.05:
                # The same stream twice: an agent that has given up the first one.
                waiting.append(item)
            if len(waiting) >= self.rng.choice((1, 2, 4, 8)):
                self._ingest(waiting)
                waiting = []
        self._ingest(waiting)

    def _ingest(self, items: list[Any]) -> None:
        if items:
            result = self._ask("ingest", [item.SerializeToString() for item in items])
            assert isinstance(result, IngestResult)
            assert result.applied
            assert not result.failures
            for progress in result.progress:
                self.agents.learn(progress)

    def _poll(self, now: float) -> None:
        result = self._ask("poll", now)
        assert isinstance(result, PollResult)
        self.may_spoil = self.may_spoil or result.snapshots >= 2
        for progress in result.durable:
            if (progress.rank, progress.incarnation) in self.agents.processes:
                self.agents.learn(progress)

    # Life and death

    def _choose(self) -> None:
        """What this life is to be killed at, if at all."""
        self.target = None
        if self.kills_left > 0:
            phases = [*RUNNING, "restore", *(["migration"] * 3 if self.migrates else [])]
            self.target = self.rng.choice(phases)
            # A goodbye is the only thing that a batch after it cannot make up for: some lives end there.
            self.at_goodbye = self.rng.random() < 0.3
            self.messages_left = self.rng.randrange(1, 40)
        self.migrating = self.target == "migration" and self.database.exists()
        if self.database.exists():
            if self.migrating:
                as_last_minor_version(self.database)
            elif self.may_spoil and self.rng.random() < 0.2 and spoil_newest(self.database, self.rng):
                self.tally.spoiled += 1
                self.may_spoil = False

    def _start(self) -> float:
        self.tally.lives += 1
        self.mark.phase = "other"
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(
            target=live,
            args=(theirs, self.mark_path, RUN, self.settings),
            kwargs={"migrates": self.migrating},
            daemon=True,
        )
        self.process.start()
        theirs.close()
        if self.target in STARTING:
            self._strike()
        now = self._reply()
        assert isinstance(now, float)
        return now

    def _ask(self, what: str, argument: Any) -> Any:
        assert self.pipe is not None
        self.pipe.send(what if argument is None else (what, argument))
        self.messages_left -= 1
        if self.at_goodbye:
            self.messages_left = 0 if self.agents.said_goodbye else 1
            self.agents.said_goodbye = False
        suits = {"ingest": "ingest", "poll": "snapshot"}.get(what) == self.target
        if self.target in RUNNING and suits and self.messages_left <= 0:
            self._strike()
        return self._reply()

    def _reply(self) -> Any:
        assert self.pipe is not None
        if not self.pipe.poll(REPLY_SECONDS):
            raise AssertionError(f"the analyzer does not answer, at {self.mark.phase}")
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise AssertionError("the analyzer has ended by itself: its error is above") from None

    def _strike(self) -> None:
        """Kill it at a random moment of the phase that is aimed at, unless it answers before it comes to it."""
        assert self.pipe is not None
        assert self.process is not None
        assert self.process.pid is not None
        deadline = time.monotonic() + REPLY_SECONDS
        while self.mark.phase != self.target:
            if self.pipe.poll(0) or not self.process.is_alive() or time.monotonic() > deadline:
                return
        begun = time.perf_counter()
        typical = self.tally.durations.get(self.target or "", 0.005)
        delay = self.rng.uniform(0.0, 1.2 * typical)
        while time.perf_counter() - begun < delay:
            if self.mark.phase != self.target:
                spent = time.perf_counter() - begun
                self.tally.durations[self.target or ""] = 0.8 * typical + 0.2 * spent
                break
        else:
            self.tally.durations[self.target or ""] = max(typical, delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.pipe.close()
        self.tally.kills[self.mark.phase] += 1
        self.kills_left -= 1
        raise KilledError


def check(job: Job, state: bytes) -> None:
    """Compare what is left with a twin that nobody has killed, and with the replay of what was recorded."""
    twin = RunAnalysis(RUN)
    for item in job.script:
        apply(twin, item)
    twin.changes()
    replayed = replay(recording_path(Path(job.settings.record_directory or ""), RUN))
    replayed.changes()
    final = snapshot.decode(state)
    # Everything, the count of what came twice included, is what the analysis makes of the inputs that have survived.
    recorded = differences(snapshot.encode(replayed), state)
    assert not recorded, f"not the state of the recorded inputs: {recorded}"
    # But for that count, and for when who came back was last heard of, it is what an undisturbed analysis makes of the job.
    seen_at = twin.state.ranks.seen_at
    for rank in {key[0] for key in job.agents.processes}:
        seen_at[rank] = job.agents.last_heard(rank, seen_at[rank])
    other = differences(snapshot.encode(without_duplicates(twin)), snapshot.encode(without_duplicates(final)))
    assert not other, f"not the state of the twin: {other}"
    store = Store(job.settings.store_url)
    try:
        stored = store.run(RUN)
        assert stored is not None
        assert stored.view == snapshot.decode(state).view(), "another view is stored"
        assert sorted(store.findings(RUN), key=lambda each: each.id) == sorted(
            twin.findings(), key=lambda each: each.id
        ), "other findings are stored"
    finally:
        store.close()
    with contextlib.closing(sqlite3.connect(job.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def differences(wanted: bytes, got: bytes) -> list[str]:
    """Where two snapshots differ, with both values; empty when they are the same, bit for bit."""
    if wanted == got:
        return []
    found: list[str] = []

    def compare(place: str, left: Any, right: Any) -> None:
        if isinstance(left, dict) and isinstance(right, dict):
            for key in [*left, *(key for key in right if key not in left)]:
                compare(f"{place}.{key}", left.get(key), right.get(key))
        elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            for index, (one, other) in enumerate(zip(left, right, strict=True)):
                compare(f"{place}[{index}]", one, other)
        elif repr(left) != repr(right):
            found.append(f"{place}: {left!r:.100} and not {right!r:.100}")

    compare("", msgspec.msgpack.decode(wanted[52:]), msgspec.msgpack.decode(got[52:]))
    return found[:12] or ["the order of something"]


def without_duplicates(analysis: RunAnalysis) -> RunAnalysis:
    """The analysis as if nothing and nobody had come twice."""
    analysis.state.duplicate_batches = 0
    analysis.state.ranks.duplicate_batches[:] = 0
    analysis.state.ranks.duplicate_steps[:] = 0
    # Agents that came back only to say goodbye again have introduced themselves again: that is told with the next step.
    analysis.state.undeclared = False
    return analysis


def kill_until(directory: Path, kills: int, seed: int, *, ranks: int = 3, batches: int = 16) -> Tally:
    """Jobs with several kills each, every other one with migrations, until there were so many."""
    tally, rng = Tally(), random.Random(seed)
    while (done := sum(tally.kills.values())) < kills:
        folder = directory / f"job-{tally.jobs}"
        folder.mkdir(parents=True)
        number = rng.randrange(1 << 32)
        job = Job(
            folder,
            tally,
            number,
            min(kills - done, 12),
            ranks=ranks,
            batches=batches,
            migrates=tally.jobs % 2 == 0,
        )
        try:
            check(job, job.run())
        except AssertionError as error:
            error.add_note(f"job {tally.jobs - 1} with seed {number} in {folder}")
            raise
    return tally
