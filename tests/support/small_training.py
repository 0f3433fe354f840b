"""A training whose every number can be compared: seeded, over DDP and gloo, with random numbers of three kinds in it."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stallwatch.agent import Agent, attach

STEPS = 60
WIDE_STEPS = 2
"""Of the model with ten thousand parameters, whose steps take a second."""


@dataclass(frozen=True)
class Outcome:
    """What must be the same with the agent and without it, to the last bit."""

    losses: tuple[str, ...]
    parameters: str
    optimizer: str
    randomness: str
    """The states of the three generators at the end: the agent draws from none of them."""


@contextlib.contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """A gloo group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


class Wide(torch.nn.Module):
    """Ten thousand parameters of four elements each."""

    def __init__(self, count: int = 10_000) -> None:
        super().__init__()
        self.parts = torch.nn.ParameterList(torch.randn(4) for _ in range(count))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """All of them, each with its own gradient."""
        return inputs[:, :4] @ torch.stack(list(self.parts)).tanh().sum(0, keepdim=True).T


def _model(kind: str) -> torch.nn.Module:
    if kind == "wide":
        return Wide()
    return torch.nn.Sequential(
        torch.nn.Linear(8, 32),
        torch.nn.BatchNorm1d(32),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(32, 1),
    )


class Samples(torch.utils.data.Dataset[torch.Tensor]):
    """What worker processes load."""

    def __len__(self) -> int:
        """One epoch."""
        return STEPS * 16

    def __getitem__(self, index: int) -> torch.Tensor:
        """A sample."""
        return torch.full((8,), index / 100).sin()


def batches(kind: str, steps: int) -> Iterator[torch.Tensor]:
    """Inputs of every step."""
    if kind in {"fork", "forkserver", "spawn"}:
        yield from torch.utils.data.DataLoader(
            Samples(),
            batch_size=16,
            shuffle=True,
            num_workers=1 if kind == "spawn" else 2,
            multiprocessing_context=kind,
        )
        return
    for _ in range(steps):
        yield torch.rand(16, 8)


def train(
    kind: str = "plain",
    agent: dict[str, Any] | None = None,
    at_step: Callable[[int, Any], None] | None = None,
    steps: int | None = None,
    *,
    close: bool = True,
) -> Outcome:
    """Train from the seed.

    Args:
        kind: `plain`, `wide` (10,000 parameters), or how worker processes that load the data are started.
        agent: Arguments of `attach`; None to train without the agent.
        at_step: Called before each step with its number and the agent: where faults happen.
        steps: How many; by default as many as the kind has.
        close: Whether the agent is closed, rather than left to the end of the process.
    """
    count = steps or (WIDE_STEPS if kind == "wide" else STEPS)
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002 -- the global one is what a script uses
    model = torch.nn.parallel.DistributedDataParallel(_model(kind))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watch = None if agent is None else attach(model, optimizer, **agent)
    try:
        losses = [_step(model, optimizer, watch, *each, at_step) for each in enumerate(batches(kind, count))]
    finally:
        if watch is not None and close:
            watch.close()
    states = [model.state_dict(), [entry for _, entry in sorted(optimizer.state_dict()["state"].items())]]
    return Outcome(
        losses=tuple(losses),
        parameters=_digest(states[0].values()),
        optimizer=_digest(value for entry in states[1] for value in entry.values()),
        randomness=hashlib.sha256(
            repr((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state())).encode()  # noqa: NPY002
        ).hexdigest(),
    )


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: Agent | None,
    step: int,
    drawn: torch.Tensor,
    at_step: Callable[[int, Any], None] | None,
) -> str:
    if at_step is not None:
        at_step(step, watch)
    inputs = drawn * random.random() + float(np.random.rand())  # noqa: NPY002
    loss = (model(inputs) - inputs[:, :1]).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if watch is not None:
        watch.log(loss, 16)
    return float(loss.detach()).hex()


def _digest(tensors: Any) -> str:
    total = hashlib.sha256()
    for each in tensors:
        total.update(torch.as_tensor(each).detach().numpy().tobytes())
    return total.hexdigest()
