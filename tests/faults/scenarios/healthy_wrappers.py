"""Healthy trainings with other wrappers, hooks, optimizers and learning rates than plain DDP has."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job
from faults.tasks import TASKS


def _model(job: Job) -> nn.Module:
    job.seed_model()
    return TASKS[job.case.scenario.task].model()


def wrapped(job: Job) -> None:
    """DDP with the options that the scenario names."""
    job.training(ddp=job.options["ddp"]).run()


def compiled(job: Job) -> None:
    """torch.compile around DDP."""
    ddp = DistributedDataParallel(_model(job))
    model = torch.compile(ddp, backend=job.options["backend"])
    job.training(model=model, wrapped=False).run()


def frozen(job: Job) -> None:
    """The first layers are frozen on purpose before wrapping."""
    model = _model(job)
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    job.training(model=model).run()


def zero_redundancy(job: Job) -> None:
    """Optimizer state is sharded, and parameters are broadcast after the step."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(_model(job))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-3)
    job.training(model=model, optimizer=optimizer).run()


def compressed(job: Job) -> None:
    """The user's communication hook rounds gradients to half precision."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    model = DistributedDataParallel(_model(job))
    model.register_comm_hook(None, fp16_compress_hook)
    job.training(model=model).run()


def power_sgd(job: Job) -> None:
    """The user's communication hook sends a low-rank approximation."""
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    model = DistributedDataParallel(_model(job))
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=20)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    job.training(model=model).run()


def sharded(job: Job) -> None:
    """FSDP2."""
    from torch.distributed.fsdp import fully_shard

    model = _model(job)
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    job.training(model=model, wrapped=False).run()


def local_sgd(job: Job) -> None:
    """Every rank steps on its own, and parameters are averaged every fourth step, as declared."""
    period = 4
    training = job.training(wrapped=False, local_steps=period)
    for step in training.iterate():
        training.train(step)
        if step % period == period - 1:
            with torch.no_grad():
                for parameter in training.model.parameters():
                    dist.all_reduce(parameter)
                    parameter.div_(job.world_size)
    training.close()


def scheduled(job: Job) -> None:
    """A schedule of torch's."""
    training = job.training()
    schedules = torch.optim.lr_scheduler
    schedule = {
        "warm-up": lambda: schedules.LambdaLR(training.optimizer, lambda step: min(step / 60, 1.0)),
        "warm-restarts": lambda: schedules.CosineAnnealingWarmRestarts(training.optimizer, 40),
        "cosine": lambda: schedules.CosineAnnealingLR(training.optimizer, 2 * job.steps),
    }[job.options["schedule"]]()
    for step in training.iterate():
        training.train(step)
        schedule.step()
    training.close()


def rate_groups(job: Job) -> None:
    """Parameter groups with learning rates of their own, one of them 0."""
    model = DistributedDataParallel(_model(job))
    parameters = list(model.parameters())
    groups = [
        {"params": parameters[:2], "lr": 0.0},
        {"params": parameters[2:4], "lr": 3e-4},
        {"params": parameters[4:], "lr": 1e-3, "weight_decay": 0.0},
    ]
    job.training(model=model, optimizer=torch.optim.AdamW(groups)).run()
