"""What a fault has in its hands while a pair of jobs trains: the detector, the jobs, the network, and ways to wait."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chaos.fault import Fault
from chaos.pair import RANKS, TrainingJob
from faults.ranks import Zygote
from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store, sqlite_url
from support.relay import Mute, Relay
from support.service import Service
from support.waiting import wait_until

PATIENCE_SECONDS = 60.0
PACE_SECONDS = 0.015
"""What stands for the time on a device in each step: it keeps the four ranks of a pair from filling two cores."""
AHEAD_STEPS = 40
"""How far ahead a step is said that all ranks act on: further than any of them comes until it has looked."""
WARM_STEPS = 60
SLOW_SHARE = 5
"""By how much fewer both are where a step takes long, as in the wide variant."""


class InterruptedSceneError(Exception):
    """Somebody wants it all to end."""


class Scene(contextlib.ExitStack):
    """One fault, in its folder; what it opens is closed at its end."""

    def __init__(
        self, fault: Fault, folder: Path, service: Service, zygote: Zygote, stopping: threading.Event
    ) -> None:
        super().__init__()
        self._stopping = stopping
        self.fault = fault
        self.folder = folder
        self.service = service
        self.run = f"chaos/{fault.name}"
        self._zygote = zygote
        self.watched = self._job("watched")
        self.twin = self._job("twin")
        self.launches = 0
        self.own: Any = None
        """What the fault keeps for itself."""
        self.ended_at = 0.0
        """When the fault was over, by the monotonic clock."""

    @property
    def jobs(self) -> tuple[TrainingJob, TrainingJob]:
        """Both."""
        return self.watched, self.twin

    def fewer(self, steps: int) -> int:
        """So many steps, or fewer where each takes long."""
        return steps // SLOW_SHARE if self.fault.variant == "wide" else steps

    def start_jobs(self) -> None:
        """Start both jobs; again, after they have ended, to go on from their checkpoints."""
        endpoint = self.watched.order["endpoint"] or self.fault.endpoint(self)
        if self.fault.log_folder is not None and not self.launches:
            self.watched.log_folder = Path(self.fault.log_folder(self))
        for job in self.jobs:
            job.order["endpoint"] = endpoint if job is self.watched else None
            job.order["launch"] = self.launches
            job.start(self._zygote, torchrun=self.fault.torchrun)
        self.launches += 1

    # --- waiting ------------------------------------------------------------------------------------------------

    def wait_until(
        self,
        what: str,
        condition: Callable[[], Any],
        seconds: float = PATIENCE_SECONDS,
        interval: float = 0.05,
    ) -> None:
        """Wait for a condition; no longer than until somebody wants it all to end."""

        def holds() -> Any:
            if self._stopping.is_set():
                raise InterruptedSceneError
            return condition()

        wait_until(what, holds, seconds, interval)

    def check_jobs(self) -> None:
        """Fail when a job ended that nobody told to."""
        for job in self.jobs:
            codes = job.codes()
            assert all(code is None for code in codes), f"{job.folder.name} ended with {codes}: {job.log()}"

    def train_on(self, steps: int) -> None:
        """Let the watched job train so many steps more, whatever holds now."""
        target = min(self.watched.progress()) + steps

        def there() -> bool:
            self.check_jobs()
            return min(self.watched.progress()) >= target

        self.wait_until(f"{steps} steps more", there, PATIENCE_SECONDS)

    def train_for(self, seconds: float) -> None:
        """Let the jobs train for a time, and see that they do."""
        until = time.monotonic() + seconds

        def over() -> bool:
            self.check_jobs()
            return time.monotonic() >= until

        before = min(self.watched.progress())
        self.wait_until(f"{seconds:.0f} s to pass", over, seconds + 60)
        assert min(self.watched.progress()) > before, "the watched job stands still"

    def wait_for_ranks(self) -> None:
        """Until the ranks say that what they do to themselves is over."""

        def over() -> bool:
            if not self.fault.torchrun:
                self.check_jobs()
            return bool(self.watched.notes("fault"))

        self.wait_until("the ranks' fault to end", over, PATIENCE_SECONDS)

    def wait_until_stored(self, step: int) -> None:
        """Until a step is in the store, where it outlives everything."""
        self.wait_until(
            f"step {step} in the store", lambda: self.stored_step() >= step, PATIENCE_SECONDS, 0.1
        )

    def stored_step(self) -> int:
        """The last step of which the store knows; -1 when it knows nothing."""
        store = Store(self.service_store)
        try:
            stored = store.run(self.run)
        except StoreError:
            return -1
        finally:
            store.close()
        return stored.view.step if stored is not None else -1

    def is_ready(self) -> bool:
        """Whether the detector says it is."""
        return self.service.fetch("/readyz")[0] == 200

    # --- what the detector says -----------------------------------------------------------------------------------

    @property
    def service_store(self) -> str:
        """The store's address."""
        return sqlite_url(self.service.directory)

    def path(self, part: str = "", run: str = "") -> str:
        """Of the run in the API."""
        return f"/api/v1/runs/{quote(run or self.run, safe='')}{part}"

    def findings(self) -> dict[str, dict[str, Any]]:
        """All findings about the run, by id."""
        status, body = self.service.fetch(self.path("/findings?status=all"))
        return {each["id"]: each for each in json.loads(body)["findings"]} if status == 200 else {}

    # --- things between ranks and detector ----------------------------------------------------------------------

    @cached_property
    def relay(self) -> Relay:
        """A relay to the detector."""
        relay = Relay(self.service.grpc_address)
        self.callback(relay.close)
        return relay

    @cached_property
    def mute(self) -> Mute:
        """Something that takes connections and is silent."""
        mute = Mute()
        self.callback(mute.close)
        return mute

    def _job(self, name: str) -> TrainingJob:
        folder = self.folder / name
        folder.mkdir(parents=True)
        order = {
            "module": "chaos.job",
            "folder": str(folder),
            "run": self.run,
            "endpoint": None,
            "launch": 0,
            "pace": PACE_SECONDS,
            "variant": self.fault.variant,
            "checkpoints": self.fault.torchrun,
            "ending": self.fault.ending,
            "inject": self.fault.inject,
            "environment": {},
        }
        job = TrainingJob(folder, order, folder)
        self.callback(job.end)
        return job


def ahead(scene: Scene) -> int:
    """A step that no rank of either job has reached, nor will before it looks."""
    return max(step for job in scene.jobs for step in job.progress()) + scene.fewer(AHEAD_STEPS)


__all__ = ["RANKS", "Scene", "ahead"]
