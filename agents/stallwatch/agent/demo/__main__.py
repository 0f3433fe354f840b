"""The training loop, with faults that begin and end at given steps."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from stallwatch.agent import attach
from stallwatch.agent.demo._data import batches, corpus
from stallwatch.agent.demo._model import CharacterGPT

STOP_EVERY = 25
"""Steps between looks at the stop file: one small broadcast, so that all ranks stop at the same step."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stallwatch.agent.demo", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps at most")
    parser.add_argument("--batch", type=int, default=8, help="windows a rank and step")
    parser.add_argument("--context", type=int, default=32, help="characters a window")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--bypass", type=fault, metavar="RANK:FROM:TO", help="this rank applies its own gradient"
    )
    parser.add_argument("--slow", type=fault, metavar="RANK:FROM:TO", help="this rank's data comes late")
    parser.add_argument("--slow-seconds", type=float, default=0.05)
    parser.add_argument(
        "--cut-at", type=int, default=None, help="step from which the learning rate is 1e-9 of itself"
    )
    parser.add_argument(
        "--stop-file", type=Path, default=None, help="training ends soon after this file appears"
    )
    parser.add_argument(
        "--timings", type=Path, default=None, help="folder for rank-R.json: Unix seconds at each step's end"
    )
    return parser.parse_args()


def fault(text: str) -> tuple[int, int, int]:
    """Parse RANK:FROM:TO."""
    try:
        rank, first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not RANK:FROM:TO, three whole numbers") from None
    return rank, first, last


def active(planned: tuple[int, int, int] | None, rank: int, step: int) -> bool:
    """Whether a planned fault is on, at this rank and step."""
    return planned is not None and rank == planned[0] and planned[1] <= step < planned[2]


def make_replicas_equal(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """What one would do after mending a desync: everybody takes rank 0's parameters and optimizer state."""
    for tensor in [
        *model.parameters(),
        *(value for state in optimizer.state.values() for value in state.values()),
    ]:
        if torch.is_tensor(tensor):
            dist.broadcast(tensor.detach(), src=0)


def told_to_stop(path: Path | None, step: int) -> bool:
    """Whether rank 0 sees the stop file: asked of all ranks together, so that they end at the same step."""
    if path is None or step % STOP_EVERY:
        return False
    flag = torch.tensor(int(path.exists()))
    dist.broadcast(flag, src=0)
    return bool(flag.item())


def main() -> None:
    """Train, with the planned faults, and let the agent watch."""
    options = arguments()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(options.seed)
    text, vocabulary = corpus()
    model = DistributedDataParallel(CharacterGPT(vocabulary, options.context))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    data = batches(text, batch=options.batch, context=options.context, seed=options.seed * 1000 + rank)
    watch = attach(model, optimizer)

    ends = []
    for step in range(options.steps):
        if told_to_stop(options.stop_file, step):
            break
        if options.cut_at is not None and step == options.cut_at:
            for group in optimizer.param_groups:
                group["lr"] *= 1e-9
        if active(options.slow, rank, step):
            time.sleep(options.slow_seconds)
        inputs, targets = next(data)
        loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        if active(options.bypass, rank, step):
            # The mistake: a second pass through the wrapped module itself. Its gradient is this rank's alone, no collective
            # runs, torch says nothing, and the optimizer takes it.
            optimizer.zero_grad()
            loss = functional.cross_entropy(model.module(inputs).flatten(0, 1), targets.flatten())
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.log(loss, samples=len(inputs))
        ends.append(time.time())
        if options.bypass is not None and step + 1 == options.bypass[2]:
            make_replicas_equal(model, optimizer)

    watch.close()
    dist.destroy_process_group()
    if options.timings is not None:
        options.timings.mkdir(parents=True, exist_ok=True)
        (options.timings / f"rank-{rank}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main()
