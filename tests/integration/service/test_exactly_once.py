"""Whatever dies, every step of every rank is counted once, and findings stay."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
from urllib.parse import quote

import pytest

from stallwatch.detector.engine.recording import recording_path
from stallwatch.detector.engine.replay import replay
from stallwatch.detector.http.render import dumps, finding_json
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Rank, Stream, hello, steps
from support.waiting import wait_until

WORLD = 2
STEPS = 10


def path(run: str, part: str = "") -> str:
    """Of a run in the API."""
    return f"/api/v1/runs/{quote(run, safe='')}{part}"


def findings(service, run: str) -> list[dict]:
    """All findings of a run."""
    answer = service.get(path(run, "/findings?status=all"))
    return answer["findings"] if answer else []


def analyzer_pids(service) -> set[int]:
    """The processes of the analyzers of this service, found by their title among its descendants."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    parents, analyzers = {}, set()
    for line in listed.splitlines()[1:]:
        pid, parent, title = line.split(None, 2)
        parents[int(pid)] = int(parent)
        if title.startswith("ray::RunAnalyzer"):
            analyzers.add(int(pid))

    def belongs(pid: int) -> bool:
        while pid in parents and pid != service.process.pid:
            pid = parents[pid]
        return pid == service.process.pid

    return {pid for pid in analyzers if belongs(pid)}


def sick_steps(number: int, rank: Rank) -> pb.StepBatch:
    """Ten steps; in each batch, rank 0 has one of loss NaN."""
    block = steps(number * STEPS, STEPS)
    if rank.hello.rank == 0:
        block.loss_sum[3] = math.nan
    return block


class Sender:
    """Sends batches of both ranks on and on, while things happen to the detector."""

    def __init__(self, ranks: list[Rank], first: int) -> None:
        self.ranks = ranks
        self.sent = first
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.batch()

    def batch(self) -> None:
        """One batch of each rank."""
        for rank in self.ranks:
            rank.send(sick_steps(self.sent, rank))
        self.sent += 1

    def stop(self) -> int:
        """Stop, and return how many batches each rank has sent."""
        self._stop.set()
        self._thread.join()
        return self.sent


def assert_counted_once(service, run: str, total: int) -> None:
    """Every rank's steps, none missing, none twice."""

    def complete() -> list[dict]:
        answer = service.get(path(run, "/ranks"))
        shown = answer["ranks"] if answer else []
        return shown if len(shown) == WORLD and all(one["last_step"] == total - 1 for one in shown) else []

    for shown in wait_until("all ranks' last step", complete):
        assert (shown["steps_received"], shown["steps_missing"]) == (total, 0), shown
    assert service.get(path(run))["step"] == total - 1


def open_finding(service, ranks: list[Rank], run: str) -> dict:
    """The finding that a NaN in the loss of rank 0 opens."""

    def non_finite() -> dict | None:
        return next((one for one in findings(service, run) if one["kind"] == "non_finite"), None)

    for number in range(2):
        for rank in ranks:
            rank.send(sick_steps(number, rank))
    return wait_until("the finding", non_finite)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["service killed", "service stopped", "analyzer killed"])
def test_nothing_is_lost_or_doubled_by_a_death(service, attach, run, how):
    """In mid-stream, with agents that keep what is not durable and send it again."""
    ranks = [attach(number, WORLD) for number in range(WORLD)]
    before = open_finding(service, ranks, run)
    sender = Sender(ranks, 2)
    ranks[0].wait_durable(5)
    if how == "service killed":
        service.kill()
        service.start()
    elif how == "service stopped":
        assert service.stop() == 0
        service.start()
    else:
        restarts = service.metric("stallwatch_analyzer_restarts_total")
        for pid in analyzer_pids(service):
            os.kill(pid, signal.SIGKILL)
        wait_until("the restart", lambda: service.metric("stallwatch_analyzer_restarts_total") > restarts)
    for rank in ranks:
        rank.wait_accepted(sender.sent + 10)
    total = sender.stop() * STEPS
    for rank in ranks:
        rank.wait_durable()
        assert rank.connections >= 2
    assert_counted_once(service, run, total)
    after = {one["id"]: one for one in findings(service, run)}
    assert after[before["id"]]["since_step"] == before["since_step"]
    assert after[before["id"]]["status"] == "firing"


@pytest.mark.timeout(120)
def test_a_run_that_was_quiet_when_its_analyzer_died_loses_nothing(service, attach, run):
    """Nothing was in flight, so nobody but the poll notices; what was accepted and not durable is asked for again."""
    ranks = [attach(number, WORLD) for number in range(WORLD)]
    for number in range(5):
        for rank in ranks:
            rank.send(steps(number * STEPS, STEPS))
    for rank in ranks:
        rank.wait_accepted()
    for pid in analyzer_pids(service):
        os.kill(pid, signal.SIGKILL)
    wait_until("the reconnects", lambda: all(rank.connections >= 2 for rank in ranks))
    for rank in ranks:
        rank.send(steps(5 * STEPS, STEPS))
        rank.wait_durable()
    assert_counted_once(service, run, 6 * STEPS)


@pytest.mark.timeout(120)
def test_after_a_kill_ray_ends_too(service):
    """The embedded one ends with the service, however that ends; its small agents notice within a minute."""
    session = service.process.pid
    service.kill()

    def left() -> list[str]:
        listed = subprocess.run(["ps", "-eo", "sid,stat,args"], capture_output=True, text=True, check=True)
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return [
            title
            for owner, state, title in rows
            if owner == str(session) and not state.startswith("Z") and not title.endswith("Agent")
        ]

    wait_until("Ray to end", lambda: not left(), 30)
    service.start()


@pytest.mark.timeout(120)
def test_a_replayed_recording_gives_the_findings_of_the_live_run(service, run):
    """Identical in every field, over the real stream, actor and store."""
    ranks = [Rank(service.grpc_address, hello(run, number, WORLD)) for number in range(WORLD)]
    open_finding(service, ranks, run)
    for number in range(2, 30):
        for rank in ranks:
            rank.send(sick_steps(number, rank))
    for rank in ranks:
        rank.finish()
    wait_until("the end", lambda: service.get(path(run))["state"] == "finished")
    live = findings(service, run)
    replayed = replay(recording_path(service.directory / "recordings", run))
    assert live
    again = json.loads(dumps([finding_json(one) for one in replayed.findings()]))
    assert [one["id"] for one in again] == [one["id"] for one in live]
    for first, second in zip(again, live, strict=True):
        assert first == second
    assert replayed.view().state == "finished"


@pytest.mark.timeout(120)
def test_a_finished_run_leaves_memory_and_stays_readable(service, attach, run):
    """After its time it is gone from /metrics; the API answers from the store."""
    rank = attach()
    for number in range(10):
        rank.send(steps(number * STEPS, STEPS))
    rank.finish()
    wait_until("the end", lambda: service.get(path(run))["state"] == "finished")
    assert service.metric("stallwatch_step", run=run) == 99
    wait_until("the eviction", lambda: service.metric("stallwatch_step", run=run) is None, 30)
    assert service.get(path(run))["step"] == 99
    assert run in [one["run"] for one in service.get("/api/v1/runs")["runs"]]
    assert service.get(path(run, "/ranks"))["ranks"][0]["steps_received"] == 100
    assert service.get(path(run, "/series/loss"))["points"]
    assert service.get(path(run, "/findings"))["findings"] == []


@pytest.mark.timeout(120)
def test_the_last_words_of_an_agent_are_durable_when_its_stream_ends(service, run):
    """An agent that says goodbye and waits for the end of the stream knows that everything is safe, the goodbye as well."""
    with Stream(service.grpc_address) as stream:
        stream.send(hello=hello(run))
        stream.send(batch=pb.Batch(sequence=1, steps=steps(0, STEPS)))
        stream.send(goodbye=pb.Goodbye(reason="finished", last_step=STEPS - 1))
        stream.close_sending()
        durable = [
            response.acknowledgement.durable_sequence
            for response in stream.call
            if response.WhichOneof("payload") == "acknowledgement"
        ]
    service.restart()
    assert durable[-1] == 1
    wait_until("the run", lambda: service.get(path(run)))
    assert service.get(path(run))["state"] == "finished"
    assert service.get(path(run, "/gaps"))["gaps"] == []


def test_a_start_outlives_the_agent_that_asked_for_it(service, run):
    """On a full machine an analyzer takes longer to start than an agent waits: the next try must find it further on."""

    def starting() -> bool:
        titles = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return f"ray::{run}@" in titles

    with Stream(service.grpc_address) as stream:
        stream.send(hello=hello(run))
        wait_until("the analyzer's start", lambda: starting() or service.get(path(run)), interval=0.01)
    wait_until("the run", lambda: service.get(path(run)))
