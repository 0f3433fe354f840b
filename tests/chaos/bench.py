"""Runs faults one after another, each on a pair of jobs, and measures what is left of each."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from chaos.fault import Fault, Loss
from chaos.measure import Outcome, measure
from chaos.scene import PATIENCE_SECONDS, WARM_STEPS, Scene, ahead
from faults.ranks import Zygote
from support.service import Service

SEEDED = "missing_gradient_sync"
"""What is wrong with every job from its first step on: a finding that has to outlive each fault."""
FINISH_SECONDS = 60.0
QUIET_SECONDS = 3.0
"""After an end without a goodbye: for so long nothing more has come."""
_ENVIRONMENT = {
    "STALLWATCH_FINISHED_RUN_SECONDS": "15",
    "STALLWATCH_SILENT_RUN_SECONDS": "120",
}


class Bench:
    """One detector that many faults share, and others for those that need one of their own."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.folder = folder
        self._zygote = zygote
        self._shared = Service(folder / "service", environment=_ENVIRONMENT)
        self._starting = threading.Lock()
        self.stopping = threading.Event()
        """Set when everything is to end."""

    def run(self, fault: Fault) -> Outcome:
        """One fault, from the start of its jobs to their end."""
        folder = self.folder / "jobs" / fault.name.replace("/", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.monotonic()
        with Scene(fault, folder, self._shared, self._zygote, self.stopping) as scene:
            outcome = Outcome(fault)
            try:
                self._service(scene)
                self._play(scene, outcome)
            except AssertionError as error:
                outcome.trouble = str(error)
        outcome.wall_seconds = time.monotonic() - began
        return outcome

    def close(self) -> None:
        """End the shared detector."""
        self._shared.__exit__()

    def _service(self, scene: Scene) -> None:
        fault = scene.fault
        if fault.own_service is not None or fault.service_arguments:
            scene.service = Service(
                scene.folder / "service", *fault.service_arguments, environment=dict(_ENVIRONMENT)
            )
            if fault.own_service is not None:
                fault.own_service(scene)
            scene.enter_context(scene.service)
            return
        with self._starting:
            if self._shared.process is None or self._shared.process.poll() is not None:
                self._shared.start()

    def _play(self, scene: Scene, outcome: Outcome) -> None:
        fault = scene.fault
        heard = fault.loss is not Loss.ALL
        scene.start_jobs()

        def is_known() -> bool:
            scene.check_jobs()
            return any(each["kind"] == SEEDED for each in scene.findings().values())

        def warm() -> bool:
            known = not heard or fault.refused_first or is_known()
            return known and min(step for job in scene.jobs for step in job.progress()) >= scene.fewer(
                WARM_STEPS
            )

        scene.wait_until("the jobs to train and the seeded finding", warm, PATIENCE_SECONDS)
        outcome.before = scene.findings()
        go = ahead(scene)
        for job in scene.jobs:
            job.mark("go", go)
        fault.strike(scene)
        scene.ended_at = time.monotonic()
        at = max(scene.watched.progress())
        if heard:
            scene.wait_until(f"the detector to be ready, and step {at} in its store",
                       lambda: scene.is_ready() and scene.stored_step() >= at,
                       PATIENCE_SECONDS, 0.1)  # fmt: skip
            outcome.recovery_seconds = time.monotonic() - scene.ended_at
        if fault.refused_first:
            scene.wait_until("the seeded finding", is_known, PATIENCE_SECONDS)
            outcome.before = scene.findings()
        stop = ahead(scene)
        for job in scene.jobs:
            job.mark("stop", stop)
        scene.wait_until(
            "both jobs to end", lambda: not any(None in job.codes() for job in scene.jobs), PATIENCE_SECONDS
        )
        expected = 1 if fault.ending == "raise" else 0
        for job in scene.jobs:
            assert set(job.codes()) == {expected}, f"{job.folder.name} ended with {job.codes()}: {job.log()}"
        if heard:
            self._wait_until_heard(scene, stop)
        measure(scene, outcome, stop)

    def _wait_until_heard(self, scene: Scene, stop: int) -> None:
        """Until the run is over for the detector, or, where ranks end without a word, until it shows all that it got."""
        heard: list[tuple[float, int]] = []

        def is_quiet() -> bool:
            ranks = scene.service.get(scene.path("/ranks"))["ranks"]
            heard.append((time.monotonic(), sum(each["steps_received"] for each in ranks)))
            return any(at <= heard[-1][0] - QUIET_SECONDS and steps == heard[-1][1] for at, steps in heard)

        def over() -> bool:
            status, _ = scene.service.fetch(scene.path())
            if status != 200:
                return False
            if scene.fault.loss is Loss.UNSENT:
                return is_quiet()
            run = scene.service.get(scene.path())
            return run["state"] == "finished" and run["step"] == stop - 1

        scene.wait_until("the run to be finished for the detector", over, FINISH_SECONDS, 0.2)


@contextmanager
def open_bench(folder: Path) -> Iterator[Bench]:
    """A bench in a folder, which may hold results of earlier calls."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "service", ignore_errors=True)
    with Zygote() as zygote:
        bench = Bench(folder, zygote)
        try:
            yield bench
        finally:
            bench.close()


def run_all(folder: Path, faults: Sequence[Fault], take: Callable[[Outcome], None], jobs: int = 1) -> None:
    """Run faults, as many at a time as told of those that leave the detector alone; hand each outcome on."""
    with open_bench(folder) as bench, ThreadPoolExecutor(jobs) as side_by_side:
        # Those with a detector of their own last: it takes long to start.
        ordered = sorted(faults, key=lambda fault: fault.own_service is not None)
        waiting = [side_by_side.submit(bench.run, fault) for fault in ordered if not fault.alone]
        try:
            for done in as_completed(waiting):
                take(done.result())
        except BaseException:
            bench.stopping.set()
            side_by_side.shutdown(cancel_futures=True)
            raise
        for fault in faults:
            if fault.alone:
                take(bench.run(fault))
