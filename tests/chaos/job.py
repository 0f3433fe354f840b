"""One rank of a chaos job: a small deterministic training, watched or not, that writes down every loss bit for bit.

How long it trains is decided while it runs: it ends at the step that a file `stop` names, and a fault that ranks do to
themselves begins at the step in the file `go`. Both jobs of a pair get the same steps, so that their parameters can be compared.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from chaos import injections

SAMPLES = 16
SAVE_EVERY = 20
PROGRESS = struct.Struct("<qq")
"""Launch and attempt in one number, and the step that is being done."""
WIDE_PARAMETERS = 10_000


class Net(nn.Module):
    """A perceptron with a layer beside it, which DDP is told to ignore: so there is a finding to keep, from the first step on."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 4)
        )
        self.side = nn.Linear(16, 4)
        self.extra = nn.ParameterList(nn.Parameter(torch.full((2,), 0.01)) for _ in range(extra))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Regress."""
        output = self.body(inputs) + self.side(inputs)
        if len(self.extra):
            output = output + torch.stack(list(self.extra)).mean()
        return output


def draw(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A rank's samples of a step: the same however often the step is repeated."""
    generator = torch.Generator().manual_seed((rank << 24) + step)  # of which torch takes 32 bits
    inputs = torch.randn(SAMPLES, 16, generator=generator)
    target = inputs[:, :4] * 2 + inputs[:, 4:8].tanh() + 0.3 * torch.randn(SAMPLES, 4, generator=generator)
    return inputs, target


class Draws(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The same samples, for a `DataLoader`: an item is a step's batch."""

    def __init__(self, rank: int, first: int, count: int) -> None:
        self.rank, self.first, self.count = rank, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index >= self.count:
            raise IndexError(index)
        return draw(self.rank, self.first + index)


class Job:
    """What a rank trains, and what it leaves for the harness."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.folder = Path(order["folder"])
        self.rank = dist.get_rank()
        self.attempt = 100 * order["launch"] + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        self.watched: bool = order["endpoint"] is not None
        self.first = 0
        self._marks: dict[str, int] = {}
        path = self.folder / f"progress-{self.rank}"
        path.touch()
        with path.open("r+b") as file:
            file.truncate(PROGRESS.size)
            self._progress = mmap.mmap(file.fileno(), PROGRESS.size)
        self._steps = (self.folder / f"steps-{self.attempt}-{self.rank}.txt").open("w", buffering=1)
        torch.manual_seed(0)
        net = Net(WIDE_PARAMETERS if order["variant"] == "wide" else 0)
        ignored = [f"side.{name}" for name, _ in net.side.named_parameters()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, ignored)
        self.model = DistributedDataParallel(net)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.agent: Any = None

    def train(self) -> None:
        """All steps of this attempt, and the end that was ordered."""
        if self.order["checkpoints"]:
            self._resume()
        if self.watched:
            self._attach()
        inject = injections.BY_NAME.get(self.order["inject"])
        source = self._loader() if self.order["variant"] == "loader" else None
        before = time.perf_counter()
        step = self.first
        while (stop := self.mark("stop")) is None or step < stop:
            PROGRESS.pack_into(self._progress, 0, self.attempt, step)
            go = self.mark("go")
            if inject is not None and go is not None and step >= go:
                inject(self, step - go)
            inputs, target = next(source) if source is not None else draw(self.rank, step)
            loss = nn.functional.mse_loss(self.model(inputs), target)
            time.sleep(self.order["pace"])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.agent is not None:
                self.agent.log(loss, SAMPLES)
            step += 1
            now = time.perf_counter()
            self._steps.write(f"{step - 1} {loss.item().hex()} {now - before:.6f}\n")
            before = now
            if self.order["checkpoints"] and step % SAVE_EVERY == 0:
                self._save(step)
        assert step == stop, f"told to stop at {stop} only at step {step}"
        self._end(step)

    def mark(self, name: str) -> int | None:
        """The step that the harness wrote into a file; None while there is none."""
        found = self._marks.get(name)
        if found is None:
            path = f"{self.folder}/{name}"
            if os.path.exists(path):  # noqa: PTH110 - twice a step
                found = self._marks[name] = int(Path(path).read_text())
        return found

    def note(self, name: str, value: object = None) -> None:
        """Leave a fact for the harness, whole or not at all."""
        path = self.folder / f"{name}-{self.rank}.json"
        part = path.with_suffix(f".part{self.attempt}")
        part.write_text(json.dumps(value))
        part.replace(path)

    def _attach(self) -> None:
        from stallwatch.agent import attach

        before = injections.BEFORE_ATTACH.get(self.order["inject"])
        if before is not None:
            before()
        options = injections.OPTIONS.get(self.order["inject"], {})
        self.agent = attach(
            self.model,
            self.optimizer,
            run=self.order["run"],
            endpoint=self.order["endpoint"],
            start_step=self.first,
            **options,
        )

    def _loader(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches from two forked workers, new ones every 50 steps, as at each epoch."""
        first = self.first
        while True:
            data = Draws(self.rank, first, 50)
            yield from DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
            first += 50

    def _save(self, step: int) -> None:
        """Each rank its own state, for the ignored layer differs; complete once all have written."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        part = self.folder / f"checkpoint-{self.rank}.part"
        torch.save(state, part)
        part.replace(self.folder / f"checkpoint-{self.rank}-{step}.pt")
        dist.barrier()

    def _resume(self) -> None:
        steps = [
            {int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"checkpoint-{rank}-*.pt")}
            for rank in range(dist.get_world_size())
        ]
        if complete := set.intersection(*steps):
            state = torch.load(self.folder / f"checkpoint-{self.rank}-{max(complete)}.pt")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.first = state["step"]

    def _end(self, step: int) -> None:
        digest = hashlib.sha256()
        for tensor in (*self.model.state_dict().values(), *_tensors(self.optimizer.state_dict())):
            digest.update(tensor.contiguous().numpy().tobytes())
        began = time.monotonic()
        ending = self.order["ending"]
        if self.agent is not None and ending == "close":
            self.agent.close()
        closing = time.monotonic() - began
        facts = {"sha256": digest.hexdigest(), "first": self.first, "stop": step, "closing": closing}
        self.note("result", {**facts, "attempt": self.attempt})
        self._steps.close()
        dist.barrier()
        if ending == "sys.exit":
            sys.exit(0)
        if ending == "raise":
            message = "the user's own error"
            raise ArithmeticError(message)
        if ending == "os._exit":
            os._exit(0)


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)


def run_rank(order: dict[str, Any], *, launched: bool) -> None:
    """Take part in a job as the environment says; `launched`: by torchrun, which says where to meet."""
    faulthandler.register(signal.SIGUSR1)
    torch.set_num_threads(1)
    if launched:
        dist.init_process_group("gloo")
    else:
        meeting = f"file://{order['folder']}/meeting-{order['launch']}"
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    Job(order).train()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run_rank(json.loads(Path(sys.argv[1]).read_text()), launched=True)
