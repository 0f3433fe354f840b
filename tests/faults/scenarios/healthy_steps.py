"""Healthy trainings whose steps have another shape, pauses between them, or other numbers in them."""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job, Training
from faults.tasks import TASKS


def _model(job: Job) -> nn.Module:
    job.seed_model()
    return TASKS[job.case.scenario.task].model()


def accumulation(job: Job) -> None:
    """K micro-batches a step, synchronised on the last one."""
    count = 4
    training = job.training(accumulation_steps=count if job.options.get("declared") else None)
    for step in training.iterate():
        for micro in range(count):
            last = micro == count - 1
            with nullcontext() if last else training.model.no_sync():
                loss = training.backward(count * step + micro, scale=1 / count)
            if not last:
                training.agent.log(loss, training.samples)
        training.finish(loss)
    training.close()


def join(job: Job) -> None:
    """Ranks have unequal numbers of batches, and DDP's join takes care of it."""
    training = job.training()
    with training.model.join():
        for step in training.iterate(job.steps - 3 * job.rank):
            training.train(step)
    training.close()


def clear_before_backward(job: Job) -> None:
    """`zero_grad` comes before backward rather than after the step."""
    training = job.training()
    for step in training.iterate():
        training.optimizer.zero_grad()
        loss = training.backward(step)
        training.optimizer.step()
        training.agent.log(loss, training.samples)
    training.close()


def clear_to_zero(job: Job) -> None:
    """Gradients are set to zero rather than taken away."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=False)
        training.agent.log(loss, training.samples)
    training.close()


def clipped(job: Job) -> None:
    """All ranks clip the same averaged gradient."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
        training.finish(loss)
    training.close()


def averaged_loss(job: Job) -> None:
    """The loss is averaged over ranks before it is logged, so all log the same."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        dist.all_reduce(loss)
        training.finish(loss / job.world_size)
    training.close()


def evaluation(job: Job) -> None:
    """Every 40 steps, an evaluation that takes many times a step."""
    training = job.training()
    for step in training.iterate():
        training.train(step)
        if step % 40 == 39:
            training.model.eval()
            with torch.no_grad():
                losses = []
                for index in range(8):
                    inputs, target = training.batch(1_000_000 + index, rank=0)
                    losses.append(float(training.task.loss(training.module(inputs), target)))
                    time.sleep(job.options["seconds"] / 8)
            training.agent.log_eval(sum(losses) / len(losses), 8 * training.samples)
            training.model.train()
    training.close()


def save_checkpoint(training: Training, seconds: float) -> None:
    """Rank 0 writes, which takes long, and the others wait for it."""
    if training.job.rank == 0:
        torch.save(training.module.state_dict(), training.job.folder / "weights.pt")
        time.sleep(seconds)
    dist.barrier()


def checkpoints(job: Job) -> None:
    """Every 50 steps a checkpoint."""
    training = job.training()
    for step in training.iterate():
        training.train(step)
        if step % 50 == 49:
            save_checkpoint(training, job.options["seconds"])
    training.close()


def slow_first_step(job: Job) -> None:
    """The first step compiles, allocates, warms up."""
    training = job.training()
    for step in training.iterate():
        if step == 0:
            time.sleep(job.options["seconds"])
        training.train(step)
    training.close()


def autocast(job: Job) -> None:
    """bfloat16 autocast."""
    training = job.training()
    for step in training.iterate():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training.forward(training.batch(step))
        loss.backward()
        training.finish(loss.detach().float())
    training.close()


def scaler(job: Job) -> None:
    """A gradient scaler that begins too high, and tries higher now and then: its skipped steps are in order."""
    training = job.training()
    scale = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=25)
    for step in training.iterate():
        loss = training.forward(training.batch(step))
        scale.scale(loss).backward()
        scale.step(training.optimizer)
        scale.update()
        training.optimizer.zero_grad()
        training.agent.log(loss.detach(), training.samples)
    training.close()


def half_weights(job: Job) -> None:
    """Weights in bfloat16, and a learning rate that moves them."""
    model = _model(job).bfloat16()
    training = job.training(model=model, learning_rate=3e-3)
    for step in training.iterate():
        inputs, target = training.batch(step)
        loss = training.backward(step, batch=(inputs.bfloat16(), target.bfloat16()))
        training.finish(loss.float())
    training.close()


def closures(job: Job) -> None:
    """LBFGS runs forward and backward as often as it likes within one step; the loss it is given is that of all ranks."""
    model = DistributedDataParallel(_model(job))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    training = job.training(model=model, optimizer=optimizer)
    for step in training.iterate():

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            loss = training.backward(step)
            dist.all_reduce(loss)
            return loss / job.world_size

        training.agent.log(optimizer.step(closure), training.samples)
    training.close()


def closure_accumulation(job: Job) -> None:
    """As Lightning trains: `optimizer.step` is given the last of four micro-batches, those before add up local gradients."""
    model = DistributedDataParallel(_model(job))
    training = job.training(model=model)
    for step in training.iterate():
        for micro in range(4):

            def closure(step: int = step, micro: int = micro) -> torch.Tensor:
                loss = training.forward(
                    training.task.batch(job.generator(4 * step + micro), training.samples)
                )
                if micro == 0:
                    training.optimizer.zero_grad()
                (loss / 4).backward()
                return loss.detach()

            if micro < 3:
                with model.no_sync():
                    training.agent.log(closure(), training.samples)
            else:
                training.agent.log(training.optimizer.step(closure), training.samples)
    training.close()


def head_only(job: Job) -> None:
    """Only the last layer is in the optimizer, and nobody has frozen the rest: its gradients pile up to no effect."""
    model = DistributedDataParallel(_model(job))
    optimizer = torch.optim.AdamW(list(model.parameters())[-2:], lr=1e-3)
    job.training(model=model, optimizer=optimizer).run()
