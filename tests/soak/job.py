"""A small DDP training with the real agent: trains until a file says that it is to end, and leaves the count of its steps."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.distributed import all_reduce, destroy_process_group, get_rank, init_process_group
from torch.nn.parallel import DistributedDataParallel

from stallwatch.agent import attach

PACE_SECONDS = 0.05


def main() -> None:
    """Train."""
    folder = Path(sys.argv[1])
    init_process_group("gloo")
    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    watch = attach(model, optimizer)
    generator = torch.Generator().manual_seed(get_rank())
    step, ended = 0, torch.zeros(1)
    while not ended.item():
        time.sleep(PACE_SECONDS)
        features = torch.randn(8, 16, generator=generator)
        loss = (model(features) - features.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.log(loss, samples=8)
        step += 1
        if step % 20 == 0:
            # All ranks end at the same step.
            ended = torch.tensor([float((folder / "end").exists())])
            all_reduce(ended)
    watch.close()
    (folder / f"steps-{get_rank()}").write_text(str(step))
    destroy_process_group()


if __name__ == "__main__":
    main()
