"""A rank of a real job that stalls: after some steps rank 1 waits in its input for ever, and the others in the all-reduce for it.

Started by torchrun with the folder of a file as its argument: when `stall` is in it, rank 1 stops.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import torch
from torch import nn
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.nn.parallel import DistributedDataParallel

from stallwatch.agent import attach

STEPS = 100_000
PACE_SECONDS = 0.02


def main() -> None:
    """Train until told to stall."""
    folder = Path(sys.argv[1])
    init_process_group("gloo")
    torch.manual_seed(1)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    watch = attach(model, optimizer)
    generator = torch.Generator().manual_seed(get_rank())
    for step in range(STEPS):
        if step == 50:
            watch.event("mixup on <img src=x onerror=alert(1)>", kind="augmentation")
        if get_rank() == 1 and (folder / "stall").exists():
            threading.Event().wait()
        time.sleep(PACE_SECONDS)
        features = torch.randn(8, 16, generator=generator)
        loss = (model(features) - features.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.log(loss, samples=8)
        if step % 20 == 19:
            watch.log_eval(loss=float(loss.detach()), samples=8)
    watch.close()
    destroy_process_group()


if __name__ == "__main__":
    main()
