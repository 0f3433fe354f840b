"""One detector that calls hangs early, one Chromium and one real job for all tests of the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import chromium as chromiums
from support import stalling_job
from support.job import end_torchrun
from support.service import Service

RUN = "team/stalls:1"
HANG_SECONDS = 3


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it the tests are skipped.

    For a module and not for the session: while Playwright is at work it keeps an event loop running in this thread, which
    asynchronous tests of other modules would stumble over.
    """
    chromiums.require()
    with chromiums.chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """The detector."""
    chromiums.require()
    analysis = f'{{"checks": {{"hang": {{"floor_seconds": {HANG_SECONDS}}}}}}}'
    with Service(tmp_path_factory.mktemp("page"), environment={"STALLWATCH_ANALYSIS": analysis}) as service:
        yield service


class StallingJob:
    """Two ranks of gloo that train until they are told to stall."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        environment = {"OMP_NUM_THREADS": "1", "STALLWATCH_RUN": RUN, "STALLWATCH_ENDPOINT": endpoint}
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, stalling_job.__file__, str(folder)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def stall(self) -> None:
        """From now on rank 1 does nothing."""
        (self.folder / "stall").touch()

    def end(self) -> None:
        """End all its processes."""
        end_torchrun(self.process)


@pytest.fixture(scope="session")
def job(service, tmp_path_factory):
    """The job, running."""
    job = StallingJob(tmp_path_factory.mktemp("job"), service.grpc_address)
    yield job
    job.end()
