"""One rank of a scenario, watched by another tool instead of Stallwatch's agent.

TrainCheck rewrites this file as it rewrites any training script: the assignment to `model` and the loop over the steps are
what it looks for. So there is no `from __future__` here, and torch is imported by its own name.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

# TrainCheck runs a copy of this file in another folder, with a PYTHONPATH of its own.
sys.path[:0] = os.environ["FAULTS_PATH"].split(os.pathsep)

from faults.catalogue import SCENARIOS  # noqa: E402 - the path comes first
from faults.job import Job, Training  # noqa: E402
from faults.peers.probe import Probe, open_probe  # noqa: E402
from faults.scenario import Case  # noqa: E402
from faults.tasks import TASKS  # noqa: E402


class WatchedJob(Job):
    """A job whose training is watched by `probe`."""

    probe: Probe

    def training(self, **options: Any) -> Training:
        """The usual training, without Stallwatch."""
        return WatchedTraining(self, **options)


class WatchedTraining(Training):
    """The usual training, with the tool's calls where its documentation puts them."""

    def __init__(self, job: WatchedJob, *, model: torch.nn.Module | None = None, **options: Any) -> None:
        self.probe = job.probe
        self._open = ExitStack()
        self._in_step = False
        self._step = self.probe.step(None)
        built = model
        if built is None:
            job.seed_model()
            built = TASKS[job.case.scenario.task].model()
        model = built
        super().__init__(job, model=model, **options)

    def _attach(self) -> Any:
        self.probe.attach(self.model, self.optimizer)
        if self.job.world_size > 1:
            torch.distributed.barrier()
        return self.probe.agent

    def iterate(self, until: int | None = None) -> Iterator[int]:
        """Each step is input until the first batch is there, and one of the tool's steps from then on."""
        for step in super().iterate(until):
            with ExitStack() as self._open:
                self._in_step = False
                # Made here for TrainCheck, which knows a training loop by such a call; entered with the first batch.
                self._step = self.probe.step(self.model)
                self._open.enter_context(self.probe.section("data_loading"))
                yield step
            self.probe.after_step(step)

    def batch(self, *arguments: Any, **options: Any) -> Any:
        """The data of a step."""
        batch = super().batch(*arguments, **options)
        self._begin_step()
        return batch

    def _begin_step(self) -> None:
        if not self._in_step:
            self._in_step = True
            self._open.close()
            self._open.enter_context(self._step)

    def forward(self, batch: Any, model: torch.nn.Module | None = None) -> torch.Tensor:
        """The sleep that stands for compute happens inside the model, where tools that time the forward see it."""
        self._begin_step()
        seconds, self.compute_seconds = self.compute_seconds, 0.0
        try:
            with asleep_inside(model or self.model, seconds), self.probe.section("fwd"):
                return super().forward(batch, model)
        finally:
            self.compute_seconds = seconds


@contextmanager
def asleep_inside(model: torch.nn.Module, seconds: float) -> Iterator[None]:
    """The model's next forward takes so much longer."""
    if not seconds:
        yield
        return
    handle = model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    try:
        yield
    finally:
        handle.remove()


def main() -> None:
    """Take part in the job that torchrun, or the tool's own launcher, has started."""
    order = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    probe = open_probe(order["tool"])
    torch.distributed.init_process_group("gloo")
    probe.start()
    scenario = SCENARIOS[order["scenario"]]
    if order["shorter"]:
        scenario = replace(scenario, **order["shorter"])
    case = Case(scenario, order["seed"], order["ranks"])
    job = WatchedJob(case, rank, world_size, 0, "", "", Path(order["folder"]))
    job.probe = probe
    case.scenario.train(job)
    torch.distributed.barrier()
    probe.close()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
