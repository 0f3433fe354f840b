"""Runs cases against one service, several at a time where they do not disturb each other, and judges each."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from faults.judge import Outcome, judge
from faults.ranks import Ranks, Torchrun, Zygote
from faults.scenario import Case, Ending, Lane
from stallwatch.detector.checks import CHECKS
from stallwatch.detector.diagnosis import CAUSES
from support.service import Service
from support.waiting import Patience

POLL_SECONDS = 0.25
SETTLE_SECONDS = 30.0
"""After a job has ended: time for what it sent last to be analysed."""
IDLE_JOBS = 4
_SERVICE_ENVIRONMENT = {
    "STALLWATCH_FINISHED_RUN_SECONDS": "5",
    "STALLWATCH_SILENT_RUN_SECONDS": "20",
}
"""Each run in memory is a process; runs that are over leave soon, and are read from the store from then on."""


class Bench:
    """One service and one zygote for any number of cases."""

    def __init__(self, folder: Path, service: Service, zygote: Zygote) -> None:
        self.folder = folder
        self.service = service
        self.zygote = zygote

    def run(self, case: Case) -> Outcome:
        """Run one case to its end."""
        began = time.monotonic()
        watch = Watch(self, case)
        trouble = ""
        try:
            watch.go()
        except AssertionError as error:
            trouble = str(error)
        outcome = judge(
            case,
            watch.findings(),
            frozenset((*CHECKS, *CAUSES)),
            fault_seconds=watch.fault_seconds(),
            seen_seconds=watch.seen,
            trouble=trouble,
        )
        outcome.wall_seconds = time.monotonic() - began
        return outcome

    def run_all(self, cases: Sequence[Case], jobs: int, tell: Callable[[Outcome], None]) -> list[Outcome]:
        """Run many: first those that may share the machine, with the idle ones beside them, then one by one."""
        by_lane = {lane: [case for case in cases if case.scenario.lane is lane] for lane in Lane}
        outcomes: list[Outcome] = []

        def one(case: Case) -> None:
            outcome = self.run(case)
            outcomes.append(outcome)
            tell(outcome)

        with ThreadPoolExecutor(IDLE_JOBS) as idle, ThreadPoolExecutor(jobs) as shared:
            waiting = [idle.submit(one, case) for case in by_lane[Lane.IDLE]]
            waiting += [shared.submit(one, case) for case in by_lane[Lane.SHARED]]
            for each in waiting:
                each.result()
        for case in by_lane[Lane.ALONE]:
            one(case)
        order = {case: index for index, case in enumerate(cases)}
        return sorted(outcomes, key=lambda outcome: order[outcome.case])


class Watch:
    """Follows one case: its processes, and what the service says of its run."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self.bench = bench
        self.case = case
        self.folder = bench.folder / case.run.replace("/", "-").replace(":", "-")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.patience = Patience(case.scenario.patience_seconds)
        self.seen: dict[str, float] = {}
        self._path = f"/api/v1/runs/{quote(case.run, safe='')}"

    def go(self) -> None:
        """Run every attempt; fails with an AssertionError when the job does not end as the scenario has it."""
        for attempt in range(len(self.case.worlds)):
            ranks: Ranks | Torchrun
            if self.case.scenario.nodes:
                ranks = Torchrun(self.case, self.folder, self._order())
            else:
                ranks = Ranks(self.bench.zygote, self.case, self.folder, self._order(), attempt)
            ranks.start()
            try:
                self._follow(ranks)
            finally:
                ranks.kill()
        if self.case.scenario.ending is Ending.GOODBYE:
            self._wait_until_finished()

    def findings(self) -> list[dict[str, Any]]:
        """All findings about the run, oldest first."""
        answer = self.bench.service.get(f"{self._path}/findings?status=all") or {"findings": []}
        now = time.time()
        for finding in answer["findings"]:
            self.seen.setdefault(finding["id"], now)
        return sorted(answer["findings"], key=lambda finding: finding["detected_step"])

    def fault_seconds(self) -> float | None:
        """When the first rank came to the first bad step, Unix seconds."""
        notes = [json.loads(path.read_text()) for path in self.folder.glob("fault-*.json")]
        return min(notes, default=None)

    def _order(self) -> dict[str, Any]:
        service = self.bench.service
        return {
            "scenario": self.case.scenario.name,
            "seed": self.case.seed,
            "ranks": self.case.ranks,
            "endpoint": service.grpc_address,
            "url": service.url,
            "folder": str(self.folder),
        }

    def _follow(self, ranks: Ranks | Torchrun) -> None:
        scenario = self.case.scenario
        while True:
            kinds = {finding["kind"] for finding in self.findings()}
            codes = ranks.codes()
            if scenario.ending is Ending.KILLED:
                if scenario.kind in kinds or not self.patience.lasts():
                    return
            else:
                failed = [rank for rank, code in enumerate(codes) if code]
                assert not failed, f"rank {failed[0]} failed: {self._log_of(ranks.attempt, failed[0])}"
                if None not in codes:
                    return
                assert self.patience.lasts(), f"still running after {scenario.patience_seconds} s"
            time.sleep(POLL_SECONDS)

    def _log_of(self, attempt: int, rank: int) -> str:
        return (self.folder / f"rank-{attempt}-{rank}.log").read_text()[-1500:]

    def _wait_until_finished(self) -> None:
        patience = Patience(SETTLE_SECONDS)
        while True:
            self.findings()
            run = self.bench.service.get(self._path)
            if run is not None and run["state"] == "finished":
                return
            state = run and run["state"]
            assert patience.lasts(), f"the run is {state} {SETTLE_SECONDS:.0f} s after its end"
            time.sleep(POLL_SECONDS)


@contextmanager
def open_bench(folder: Path) -> Iterator[Bench]:
    """Start the service and the zygote in `folder`; end both."""
    # Ranks meet in a file, which is an URL to torch: it has to be absolute.
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "service", ignore_errors=True)
    with (
        Service(folder / "service", environment=_SERVICE_ENVIRONMENT) as service,
        Zygote() as zygote,
    ):
        yield Bench(folder / "jobs", service, zygote)
