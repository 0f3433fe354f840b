"""What a scenario's training function has in its hands: the job's facts, and a training whose parts it may vary."""

from __future__ import annotations

import faulthandler
import inspect
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from faults.scenario import Case
from faults.tasks import TASKS, Batch, make_optimizer
from stallwatch.agent import attach

START_SECONDS = 90.0


@dataclass
class Job:
    """One rank process of one attempt of a case."""

    case: Case
    rank: int
    world_size: int
    attempt: int
    endpoint: str
    url: str
    folder: Path

    @property
    def at(self) -> int:
        """First bad step."""
        return self.case.at

    @property
    def steps(self) -> int:
        """Steps of the job, over all attempts."""
        return self.case.scenario.steps

    @property
    def is_culprit(self) -> bool:
        """Whether this rank is at fault."""
        return self.rank in self.case.culprits

    @property
    def options(self) -> dict[str, Any]:
        """What the scenario says besides."""
        return self.case.scenario.options

    def is_bad(self, step: int) -> bool:
        """Whether this rank does wrong at this step."""
        return step >= self.at and (self.is_culprit or not self.case.culprits)

    @property
    def checkpoint(self) -> Path:
        """Where an attempt leaves its state for the next."""
        return self.folder / "checkpoint.pt"

    def generator(self, step: int, rank: int | None = None) -> torch.Generator:
        """Random numbers of one step on one rank."""
        rank = self.rank if rank is None else rank
        return torch.Generator().manual_seed(((self.case.seed * 64 + rank) << 24) + step)

    def note(self, name: str, value: object) -> None:
        """Leave a fact for the runner."""
        path = self.folder / f"{name}-{self.attempt}-{self.rank}.json"
        path.write_text(json.dumps(value))

    def wait_for_service(self) -> None:
        """Return once the service watches this run: the jobs are over sooner than an analyzer starts."""
        deadline = time.monotonic() + START_SECONDS
        address = f"{self.url}/api/v1/runs/{quote(self.case.run, safe='')}"
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(address, timeout=10):
                    return
            except (urllib.error.URLError, OSError):  # noqa: PERF203 - one try a time is the point
                time.sleep(0.05)
        raise TimeoutError(f"the service does not know {self.case.run} after {START_SECONDS:.0f} s")

    def seed_model(self) -> None:
        """Weights are the same on all ranks."""
        torch.manual_seed(self.case.seed)

    def training(self, **options: Any) -> Training:
        """The usual training; see `Training`."""
        return Training(self, **options)


class Training:
    """A training as people write it, watched. Its parts may be replaced before the first step."""

    def __init__(
        self,
        job: Job,
        *,
        model: nn.Module | None = None,
        learning_rate: float | None = None,
        wrapped: bool = True,
        ddp: dict[str, Any] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        samples: int | None = None,
        **attach_options: Any,
    ) -> None:
        scenario = job.case.scenario
        self.job = job
        self.task = TASKS[scenario.task]
        self.samples = samples or self.task.samples
        if model is None:
            job.seed_model()
            model = self.task.model()
        if wrapped and job.world_size > 1 and not isinstance(model, DistributedDataParallel):
            model = DistributedDataParallel(model, **(ddp or {}))
        self.model = model
        rate = learning_rate or self.task.learning_rate[scenario.optimizer]
        if optimizer is None:
            trainable = [each for each in model.parameters() if each.requires_grad]
            optimizer = make_optimizer(scenario.optimizer, trainable, rate)
        self.optimizer = optimizer
        self.learning_rate = rate
        self.compute_seconds = scenario.compute_seconds
        self.first_step = 0
        self.resume()
        self._attach_options = attach_options
        self.agent = self._attach()

    def _attach(self) -> Any:
        known = inspect.signature(attach).parameters
        # Declarations that this version of the agent does not know yet are left out.
        newer = {"accumulation_steps"}
        options = {
            name: value for name, value in self._attach_options.items() if name in known or name not in newer
        }
        options.setdefault("start_step", self.first_step)
        endpoint = options.pop("endpoint", self.job.endpoint)
        agent = attach(self.model, self.optimizer, run=self.job.case.run, endpoint=endpoint, **options)
        self.job.wait_for_service()
        if self.job.world_size > 1:
            dist.barrier()
        return agent

    @cached_property
    def module(self) -> nn.Module:
        """The model inside DDP."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    # --- the parts of a step ------------------------------------------------------------------------------------

    def iterate(self, until: int | None = None) -> Iterator[int]:
        """Step numbers of this attempt; notes when the fault begins."""
        for step in range(self.first_step, self.job.steps if until is None else until):
            if step == self.job.at:
                self.job.note("fault", time.time())
            yield step

    def batch(self, step: int, *, rank: int | None = None, samples: int | None = None) -> Batch:
        """This rank's data of a step."""
        return self.task.batch(self.job.generator(step, rank), samples or self.samples)

    def forward(self, batch: Batch, model: nn.Module | None = None) -> torch.Tensor:
        """The mean loss of a batch."""
        inputs, target = batch
        loss = self.task.loss((model or self.model)(inputs), target)
        if self.compute_seconds:
            time.sleep(self.compute_seconds)
        return loss

    def backward(
        self, step: int, *, batch: Batch | None = None, model: nn.Module | None = None, scale: float = 1.0
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch; returns its mean loss."""
        loss = self.forward(batch or self.batch(step), model)
        (loss * scale).backward()
        return loss.detach()

    def finish(self, loss: torch.Tensor | float, samples: int | None = None) -> None:
        """The optimizer's part of a step."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.agent.log(loss, self.samples if samples is None else samples)

    def train(self, step: int) -> None:
        """A whole step with nothing special."""
        self.finish(self.backward(step))

    def run(self) -> None:
        """All steps with nothing special."""
        for step in self.iterate():
            self.train(step)
        self.close()

    def close(self) -> None:
        """The end of the attempt."""
        self.agent.close()

    def gradients(self) -> list[torch.Tensor]:
        """What the optimizer is going to see."""
        return [each.grad for each in self.model.parameters() if each.grad is not None]

    def set_learning_rate(self, value: float) -> None:
        """In all groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = value

    # --- restarts -----------------------------------------------------------------------------------------------

    def save(self, step: int) -> None:
        """Rank 0 leaves a checkpoint of the state before `step`; all ranks return once it is there."""
        if self.job.rank == 0:
            state = {
                "step": step,
                "model": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            temporary = self.job.checkpoint.with_suffix(".part")
            torch.save(state, temporary)
            temporary.replace(self.job.checkpoint)
        if self.job.world_size > 1:
            dist.barrier()

    def resume(self) -> None:
        """Take up the checkpoint, if an earlier attempt left one."""
        if self.job.checkpoint.exists():
            state = torch.load(self.job.checkpoint)
            self.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.first_step = state["step"]


def run_rank(order: dict[str, Any], *, launched: bool) -> None:
    """Take part in a job as the environment says; `launched`: by torchrun, which says where to meet."""
    from faults.catalogue import SCENARIOS

    # `kill -USR1 PID` shows where a rank that does not end is.
    faulthandler.register(signal.SIGUSR1)
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    folder = Path(order["folder"])
    if launched:
        dist.init_process_group("gloo")
    elif world_size > 1:
        meeting = f"file://{folder / f'rendezvous-{attempt}'}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    case = Case(SCENARIOS[order["scenario"]], order["seed"], order["ranks"])
    job = Job(case, rank, world_size, attempt, order["endpoint"], order["url"], folder)
    case.scenario.train(job)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    import sys

    run_rank(json.loads(Path(sys.argv[1]).read_text()), launched=True)
