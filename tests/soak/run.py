"""A soak: a real detector under traffic and faults for a while, then everything is counted: `make soak`.

Runs start, train and finish all the time, three last from the beginning to the end, and a real job trains beside them. While they
do, connections are reset, an analyzer is killed, the store is locked, readers are slow; the service itself is killed during warm-up
and at the end, so that in between one process lives long enough to see whether it grows.

At the end: every step of every run counted once, no finding on a healthy run and the right one on each sick run, no answer of
500, memory flat within 5 % after warm-up, and no more threads, files or tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / each) for each in ("agents", "detector", "protos", "tests")]

import psutil  # noqa: E402  found by the line above, as all below

from soak.meter import Meter, Trend  # noqa: E402
from soak.readers import READ_SECONDS, SCRAPE_SECONDS, Readers  # noqa: E402
from soak.schedule import Faults, analyzers  # noqa: E402
from soak.traffic import SoakRun, Traffic, every  # noqa: E402
from support.monitoring import Receiver  # noqa: E402
from support.relay import Relay  # noqa: E402
from support.service import Service  # noqa: E402
from support.waiting import wait_until  # noqa: E402

WARM_SHARE = 0.15
"""From when all deliver again after the last kill of warm-up."""
KILLS_AT = (0.08, 0.16)
"""Of the time: the service is killed, within warm-up; once more at the end."""
MEASURED_UNTIL = 0.97
LASTING = 3
JOB_RANKS = 2
JOB_RUN = "soak/job"
SAMPLE_SECONDS = 2.0
OF_STREAM_AND_RUN = {"tasks": (4, 3), "open_files": (1, 1)}
"""Of the service: what each stream and each watched run holds while it is there. More runs at the end than before are no leak."""
RESTS = (
    "streams of nobody",
    "runs of nobody",
    *(f"other {what.replace('_', ' ')}" for what in OF_STREAM_AND_RUN),
)
"""What the service has beyond what there is a reason for."""
SETTLE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    name: str
    holds: bool
    says: str
    of_growth: bool = False
    """Whether it is a trend, which takes minutes to tell from noise."""


@dataclass
class Report:
    """What came out."""

    minutes: float
    runs: int = 0
    steps: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    trends: list[dict[str, Any]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether all is well."""
        return all(each.holds for each in self.checks)

    @property
    def right(self) -> bool:
        """Whether all is well but for what trends say."""
        return all(each.holds for each in self.checks if not each.of_growth)

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.minutes:g} minutes, {self.runs} runs, {self.steps:,} steps",
            "faults: " + ", ".join(f"{count} x {name}" for name, count in sorted(self.faults.items())),
            "answers: " + ", ".join(f"{count} x {status}" for status, count in sorted(self.answers.items())),
        ]
        for trend in self.trends:
            unit, scale = ("MiB", 2**20) if trend["what"].endswith("bytes") else ("", 1)
            lines.append(
                f"  {trend['what']:40} {trend['first'] / scale:9.1f} -> {trend['last'] / scale:9.1f} {unit:4}"
                f"{trend['growth']:+8.1%}"
            )
        lines += [f"{'ok' if each.holds else 'FAILED':7} {each.name}: {each.says}" for each in self.checks]
        return "\n".join(lines)


class Job:
    """The real training beside the traffic."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(JOB_RANKS),
        ]
        paths = os.pathsep.join(str(ROOT / each) for each in ("agents", "protos"))
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "STALLWATCH_RUN": JOB_RUN,
            "STALLWATCH_ENDPOINT": endpoint,
        }
        with (folder / "job.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(Path(__file__).with_name("job.py")), str(folder)],
                stdout=log,
                stderr=log,
                env=variables | {"PYTHONPATH": paths},
            )

    def kill(self) -> None:
        """End it, if it has not ended by itself."""
        with suppress(psutil.Error):
            for process in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
                with suppress(psutil.Error):
                    process.kill()
        self.process.wait()

    def ranks(self) -> list[tuple[str, psutil.Process]]:
        """The processes that train."""
        found = []
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if process.cmdline()[-2:-1] == [str(Path(__file__).with_name("job.py"))]:
                        # One that is ending has no environment any more.
                        rank = process.environ().get("RANK")
                        if rank is not None:
                            found.append((f"job rank {rank}", process))
        return found

    def end(self) -> int:
        """Let it end by itself; its steps, or -1."""
        (self.folder / "end").touch()
        try:
            code = self.process.wait(SETTLE_SECONDS)
        except subprocess.TimeoutExpired:
            code = -1
        return int((self.folder / "steps-0").read_text()) if code == 0 else -1


def soak(folder: Path, minutes: float, say: Callable[[str], None] = print) -> Report:
    """Run it all, and judge."""
    report = Report(minutes)
    seconds = 60.0 * minutes
    with Receiver() as receiver:
        alerts = json.dumps({"webhooks": [{"url": receiver.url}]})
        environment = {
            "STALLWATCH_FINISHED_RUN_SECONDS": "10",
            "STALLWATCH_ALERTS": alerts,
            "PYTHONPATH": os.pathsep.join(sys.path[:3]),
        }
        # The webhook fails for most of the time.
        receiver.answers = [500, 503, 200] * 20_000
        service = Service(folder / "service", "--record", str(folder / "recordings"), environment=environment)
        try:
            _soak(service.start(), folder, seconds, report, say)
        finally:
            # Whatever state it is in.
            service.end()
    return report


def _soak(service: Service, folder: Path, seconds: float, report: Report, say: Callable[[str], None]) -> None:
    relay = Relay(service.grpc_address)
    readers = Readers(service)
    faults = Faults(service, relay, readers, victim=f"soak/lasting-{LASTING - 1}")
    new_seconds = max(20.0, seconds / 120)
    traffic = Traffic(
        [service.grpc_address, relay.endpoint],
        new_seconds=new_seconds,
        life_seconds=1.5 * new_seconds,
        lasting=LASTING,
    )
    job = Job(folder / "job", relay.endpoint)
    try:
        _under_traffic(service, traffic, job, readers, faults, seconds, report, say)
    finally:
        job.kill()
        relay.close()


def _under_traffic(
    service: Service,
    traffic: Traffic,
    job: Job,
    readers: Readers,
    faults: Faults,
    seconds: float,
    report: Report,
    say: Callable[[str], None],
) -> None:
    def processes() -> list[tuple[str, psutil.Process]]:
        assert service.process is not None
        if not psutil.pid_exists(service.process.pid):
            # Killed, and not started again yet.
            return job.ranks()
        steady = {f"soak/lasting-{number}" for number in range(LASTING - 1)} | {"soak/sick", JOB_RUN}
        own = [("analyzer of " + run, process) for run, process in analyzers(service) if run in steady]
        return [("service", psutil.Process(service.process.pid)), *own, *job.ranks()]

    meter = Meter(processes, RESTS)
    stop = threading.Event()

    def scrape() -> None:
        assert service.process is not None
        pid, text = service.process.pid, readers.scrape()
        told = {
            name: float(value) for name, value in re.findall(r"^(stallwatch_\w+) (\S+)$", text, re.MULTILINE)
        }
        if told:
            now, there = time.monotonic(), [len(run.open) for run in list(traffic.runs) if not run.finished]
            streams, runs = told["stallwatch_ingest_streams"], told["stallwatch_analyzer_runs"]
            meter.add("service", pid, "streams of nobody", streams - sum(there) - JOB_RANKS, now)
            meter.add("service", pid, "runs of nobody", runs - len(there) - 1, now)
            for what, (of_stream, of_run) in OF_STREAM_AND_RUN.items():
                other = told[f"stallwatch_detector_{what}"] - of_stream * streams - of_run * runs
                meter.add("service", pid, f"other {what.replace('_', ' ')}", other, now)

    watchers = [
        every(SCRAPE_SECONDS, scrape, stop),
        every(READ_SECONDS, readers.read, stop),
        every(SAMPLE_SECONDS, meter.sample, stop),
    ]
    began = warm = time.monotonic()
    for at, act in _schedule(faults, seconds):
        threading.Event().wait(max(0.0, began + at - time.monotonic()))
        act()
        if act == faults.kill_service:
            # On a full machine that takes a minute; what was planned comes later by as much.
            back = time.monotonic()
            _recover(service, traffic)
            began += time.monotonic() - back
            warm = time.monotonic() + WARM_SHARE * seconds
        say(
            f"{(time.monotonic() - began) / 60:6.1f} min  {faults.done[-1] if faults.done else 'nothing yet'}"
        )
    threading.Event().wait(max(0.0, began + seconds - time.monotonic()))
    measured = (warm, began + MEASURED_UNTIL * seconds)
    faults.kill_service()
    traffic.stop()
    job_steps = job.end()
    stop.set()
    for watcher in watchers:
        watcher.join(30)
    meter.write(job.folder.parent / "samples.csv")
    # The service's files are among those that the scrape told.
    trends = [each for each in meter.trends(*measured) if each.what != "service files"]
    report.runs, report.steps = len(traffic.runs), sum(run.steps * run.ranks for run in traffic.runs)
    report.faults = {name: faults.done.count(name) for name in set(faults.done)}
    report.answers = {str(status or "none"): count for status, count in readers.statuses.items()}
    report.trends = [asdict(each) | {"growth": each.growth} for each in trends]
    report.checks = [
        *_counted(service, traffic.runs),
        _job_counted(service, job_steps),
        *_findings(service, traffic.runs),
        Check("no answer of 500", not readers.failed, readers.failed[0] if readers.failed else "none"),
        *_flat(trends),
    ]


def _recover(service: Service, traffic: Traffic) -> None:
    """Wait until everybody delivers again; whoever never does is missing when the steps are counted."""
    before = _counts(service, JOB_RUN)
    with suppress(AssertionError):
        for run in list(traffic.runs):
            for rank in run.open if not run.finished else ():
                rank.wait_durable(seconds=SETTLE_SECONDS)
        wait_until("the job", lambda: _counts(service, JOB_RUN) > before, SETTLE_SECONDS)


def _schedule(faults: Faults, seconds: float) -> list[tuple[float, Callable[[], None]]]:
    planned = [(share * seconds, faults.kill_service) for share in KILLS_AT]
    cycle = faults.cycle()
    # A fault every so often, each kind again and again, with time between two of them to come back.
    pause = max(15.0, seconds / 120)
    at, number = 0.2 * seconds, 0
    while at < MEASURED_UNTIL * seconds - pause:
        planned.append((at, cycle[number % len(cycle)]))
        at, number = at + pause, number + 1
    return planned


def _path(run: str, part: str = "") -> str:
    return f"/api/v1/runs/{quote(run, safe='')}{part}"


def _counted(service: Service, runs: list[SoakRun]) -> list[Check]:
    wrong = [f"{run.name}: {run.problem}" for run in runs if run.problem]
    for run in runs:
        expected = (run.steps, 0, run.steps - 1)

        def as_expected(run: SoakRun = run, expected: tuple[int, int, int] = expected) -> bool:
            return _counts(service, run.name) == [expected] * run.ranks

        try:
            wait_until("the count", as_expected, 20)
        except AssertionError:
            wrong.append(f"{run.name}: sent {expected}, counted {_counts(service, run.name)}")
    total = sum(run.steps * run.ranks for run in runs)
    return [Check("every step is counted once", not wrong, "; ".join(wrong[:3]) or f"{total:,} of {total:,}")]


def _counts(service: Service, run: str) -> list[tuple[int, int, int]]:
    status, body = service.fetch(_path(run, "/ranks"))
    if status != 200:
        return []
    ranks = json.loads(body)["ranks"]
    return [(each["steps_received"], each["steps_missing"], each["last_step"]) for each in ranks]


def _job_counted(service: Service, steps: int) -> Check:
    expected = [(steps, 0, steps - 1)] * JOB_RANKS
    with suppress(AssertionError):
        wait_until("the job's count", lambda: _counts(service, JOB_RUN) == expected, 20)
    counted = _counts(service, JOB_RUN)
    return Check(
        "every step of the job is counted once", counted == expected, f"took {steps}, counted {counted}"
    )


def _findings(service: Service, runs: list[SoakRun]) -> list[Check]:
    false, missed = [], []
    for run in runs:
        answer = service.get(_path(run.name, "/findings?status=all"))
        kinds = {each["kind"] for each in answer["findings"]} if answer else set()
        if run.sick and run.batches > 3 and "non_finite" not in kinds:
            missed.append(run.name)
        if unexpected := kinds - ({"non_finite"} if run.sick else set()):
            false.append(f"{run.name}: {', '.join(sorted(unexpected))}")
    healthy = sum(not run.sick for run in runs)
    return [
        Check("no finding on a healthy run", not false, "; ".join(false[:3]) or f"none on {healthy}"),
        Check(
            "the finding on each sick run", not missed, ", ".join(missed[:3]) or f"on {len(runs) - healthy}"
        ),
    ]


def _flat(trends: list[Trend]) -> list[Check]:
    missing = (
        "nothing was measured for long enough"
        if not any(each.what.startswith("service") for each in trends)
        else ""
    )
    checks = []
    for name, chosen in (
        ("memory is flat", [each for each in trends if each.what.endswith("bytes")]),
        ("no thread, file or task is left", [each for each in trends if not each.what.endswith("bytes")]),
    ):
        grown = [f"{each.what} {each.growth:+.1%}" for each in chosen if not each.is_flat]
        says = (
            missing
            or "; ".join(grown)
            or f"at most {max((each.growth for each in chosen), default=0.0):+.1%} in {len(chosen)} trends"
        )
        checks.append(Check(name, not grown and not missing, says, of_growth=True))
    return checks


def main() -> int:
    """Soak, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--folder", type=Path, help="where everything is left; a temporary folder when not given"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON as well")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="stallwatch-soak-"))
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"--folder {folder} is not empty: what ran there before would be counted, too")
    report = soak(folder, given.minutes, lambda text: print(text, file=sys.stderr, flush=True))
    print(report.text())
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(asdict(report) | {"holds": report.holds}, indent=2) + "\n")
    return 0 if report.holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
