"""A gloo job whose gradient noise scale is known from per-sample gradients; run as `noise_job.py FOLDER ENDPOINT NAMES...`.

The learning rate is 0, so the truth stays what it was: the model, the data's distribution and the clipping never change it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.parallel import DistributedDataParallel

from stallwatch.agent import attach

STEPS = 240
SAMPLES = {"equal": (24, 24), "unequal": (16, 48), "accumulated": (24, 24)}
MICRO_BATCHES = {"accumulated": 3}
TRUTH_SAMPLES = 20_000


def make_model() -> nn.Module:
    """A small network, the same on every rank."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 4))


def batch(generator: torch.Generator, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and what another function says of them, with noise."""
    inputs = torch.randn(samples, 12, generator=generator)
    noise = torch.randn(samples, 4, generator=generator)
    return inputs, torch.sin(inputs[:, :4]) + inputs[:, 4:8] + 1.5 * noise


def true_scale() -> float:
    """Trace of the covariance of single samples' gradients over the square of their mean."""
    model = make_model()
    parameters = {name: each.detach() for name, each in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(functional_call(model, parameters, (inputs[None],))[0], target)

    inputs, targets = batch(torch.Generator().manual_seed(4711), TRUTH_SAMPLES)
    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, targets)
    each = torch.cat([value.flatten(1) for value in found.values()], dim=1).double()
    mean = each.mean(0)
    noise = float(each.square().sum(1).mean() - mean.square().sum())
    # The mean of so many has some of their noise left.
    return noise / (float(mean.square().sum()) - noise / TRUTH_SAMPLES)


def train(name: str, endpoint: str) -> None:
    """All steps of one job."""
    rank = dist.get_rank()
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    agent = attach(model, optimizer, run=name, endpoint=endpoint, sample_every=1)
    samples, count = SAMPLES[name][rank], MICRO_BATCHES.get(name, 1)
    for step in range(STEPS):
        for micro in range(count):
            generator = torch.Generator().manual_seed((step * count + micro) * 8 + rank)
            inputs, target = batch(generator, samples // count)
            with model.no_sync() if micro < count - 1 else nullcontext():
                loss = nn.functional.mse_loss(model(inputs), target)
                loss.backward()
            if micro < count - 1:
                agent.log(loss, samples // count)
        # What the optimizer sees says nothing of noise any more.
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, samples // count)
    agent.close()


def main() -> None:
    """Every named job, one after the other."""
    folder, endpoint, *names = sys.argv[1:]
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    if rank == 0:
        (Path(folder) / "truth.json").write_text(json.dumps(true_scale()))
    for name in names:
        train(name, endpoint)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
