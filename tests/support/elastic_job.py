"""A small DDP training that saves and resumes: `elastic_job.py FOLDER STEPS [DIES_AT]`, started by torchrun.

In the first attempt rank 1 dies at step DIES_AT; every attempt goes on from the last checkpoint.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stallwatch.agent import attach

SEEN_SECONDS = 60.0
SAVE_EVERY = 20


def main() -> None:
    """Train."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    dies_at = int(sys.argv[3]) if len(sys.argv) > 3 else -1
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inner = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    checkpoint = folder / "checkpoint.pt"
    first = 0
    state = torch.load(checkpoint) if checkpoint.exists() else None
    if state is not None:
        inner.load_state_dict(state["model"])
        first = state["step"]
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    agent = attach(model, optimizer, sample_every=10)
    for step in range(first, steps):
        if step == dies_at and rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            # Not before the detector has heard of the attempt: its first analyzer may take longer to start than this to get here.
            deadline = time.monotonic() + SEEN_SECONDS
            while not (folder / "seen").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            os._exit(3)
        generator = torch.Generator().manual_seed(1000 * step + rank)
        inputs = torch.randn(16, 8, generator=generator)
        loss = nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True))
        time.sleep(0.01)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 16)
        if (step + 1) % SAVE_EVERY == 0:
            dist.barrier()
            if rank == 0:
                new = checkpoint.with_suffix(".new")
                torch.save(
                    {"model": inner.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, new
                )
                new.rename(checkpoint)
            dist.barrier()
    agent.close()
    dist.barrier()
    print(f"rank {rank} of {world}: steps {first} to {steps}", flush=True)


if __name__ == "__main__":
    main()
