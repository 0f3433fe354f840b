"""Replicas that are not kept together: gradients that are not averaged, parameters that differ."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job, Training
from faults.scenario import Ending, Scenario
from faults.tasks import Branching

MISSING = "missing_gradient_sync"
DESYNC = "replica_desync"


def bypass(job: Job) -> None:
    """All ranks call the module inside DDP."""
    training = job.training()
    for step in training.iterate():
        model = training.module if job.is_bad(step) else training.model
        training.finish(training.backward(step, model=model))
    training.close()


def bypass_on_one_rank(job: Job) -> None:
    """One rank takes part in the reduction, but steps on the gradient of a second pass, its own."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        if job.is_bad(step):
            training.optimizer.zero_grad()
            loss = training.backward(step, model=training.module)
        training.finish(loss)
    training.close()


def no_sync(job: Job) -> None:
    """Forward and backward inside `no_sync`, and never a step outside."""
    training = job.training()
    for step in training.iterate():
        with training.model.no_sync() if job.is_bad(step) else nullcontext():
            loss = training.backward(step)
        training.finish(loss)
    training.close()


def forward_in_no_sync(job: Job) -> None:
    """Only the forward is inside `no_sync`: that is where DDP looks."""
    training = job.training()
    for step in training.iterate():
        with training.model.no_sync() if job.is_bad(step) else nullcontext():
            loss = training.forward(training.batch(step))
        loss.backward()
        training.finish(loss.detach())
    training.close()


def no_sync_every_other_step(job: Job) -> None:
    """Somebody thought that accumulation takes care of itself: every micro-batch is followed by a step."""
    training = job.training()
    for step in training.iterate():
        with training.model.no_sync() if step % 2 == 0 else nullcontext():
            loss = training.backward(step)
        training.finish(loss)
    training.close()


def autograd_grad(job: Job) -> None:
    """Gradients come from `torch.autograd.grad`, which DDP's hooks do not see."""
    training = job.training()
    for step in training.iterate():
        if not job.is_bad(step):
            training.train(step)
            continue
        loss = training.forward(training.batch(step))
        parameters = list(training.model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        training.finish(loss.detach())
    training.close()


def _branching(job: Job, **options: Any) -> Training:
    job.seed_model()
    return job.training(model=Branching(job.case.scenario.task), **options)


def unused_at_last_step(job: Job) -> None:
    """A part of the model is not used in one step: the reduction never ends, and torch would say so at the next forward."""
    training = _branching(job)
    for step in training.iterate():
        training.module.branch = not job.is_bad(step)
        training.train(step)
    training.close()


def replace_parameter(job: Job) -> None:
    """A parameter is a new object, unknown to DDP: one step before torch says so at the next forward."""
    training = job.training()
    for step in training.iterate():
        if step == job.at:
            layer = training.module[2]
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            training.optimizer.add_param_group({"params": [layer.weight]})
        training.train(step)
    training.close()


def unfreeze(job: Job) -> None:
    """A layer that was frozen when DDP was made is trained from a step on: DDP does not know it."""
    job.seed_model()
    model = Branching(job.case.scenario.task)
    model.side.requires_grad_(False)
    training = job.training(model=model)
    for step in training.iterate():
        if step == job.at:
            training.module.side.requires_grad_(True)
            training.optimizer.add_param_group({"params": list(training.module.side.parameters())})
        training.train(step)
    training.close()


def ignored_parameter(job: Job) -> None:
    """DDP was told to ignore a layer that is trained."""
    job.seed_model()
    model = Branching(job.case.scenario.task)
    names = [f"side.{name}" for name, _ in model.side.named_parameters()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    job.training(model=model).run()


def hook_that_does_not_reduce(job: Job) -> None:
    """The user's communication hook returns the bucket as it is."""

    def hook(_state: object, bucket):  # torch compares annotations, and these would be text
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    job.seed_model()
    training = job.training(model=_with_hook(DistributedDataParallel(_model(job)), hook))
    training.run()


def _model(job: Job) -> nn.Module:
    from faults.tasks import TASKS

    return TASKS[job.case.scenario.task].model()


def _with_hook(model: DistributedDataParallel, hook: Any) -> DistributedDataParallel:
    model.register_comm_hook(None, hook)
    return model


def unwrapped(job: Job) -> None:
    """Nobody wrapped the model."""
    job.training(wrapped=False).run()


def slipped_rank(job: Job) -> None:
    """One rank skips one reduction: from then on its n-th all-reduce meets the others' next, and nobody is told."""
    training = job.training()
    for step in training.iterate():
        with training.model.no_sync() if step == job.at and job.is_culprit else nullcontext():
            loss = training.backward(step)
        training.finish(loss)


def flip_bit(job: Job) -> None:
    """One bit of one weight, as faulty hardware does."""
    training = job.training()
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            with torch.no_grad():
                weight = next(training.model.parameters())
                weight.view(-1).view(torch.int32)[5] ^= 1 << 12
        training.train(step)
    training.close()


def reload_on_one_rank(job: Job) -> None:
    """One rank loads an earlier state of the weights."""
    training = job.training()
    early = {name: value.clone() for name, value in training.module.state_dict().items()}
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            training.module.load_state_dict(early)
        training.train(step)
    training.close()


def new_head_on_one_rank(job: Job) -> None:
    """One rank replaces the values of its last layer, as when a head is swapped for fine-tuning."""
    training = job.training()
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            torch.manual_seed(job.rank)
            list(training.module.modules())[-1].reset_parameters()  # type: ignore[operator]
        training.train(step)
    training.close()


def local_buffers(job: Job) -> None:
    """Every rank has running statistics of its own: which of the replicas is evaluated makes a difference."""
    job.training(ddp={"broadcast_buffers": False}).run()


_LAST = 59
SCENARIOS = (
    Scenario(
        name="sync/bypass-from-start",
        says="every forward calls the module inside DDP",
        train=bypass,
        kind=MISSING,
        steps=40,
    ),
    Scenario(
        name="sync/bypass-later",
        says="the forward calls the module inside DDP from a step on",
        train=bypass,
        kind=MISSING,
        at=40,
        steps=80,
    ),
    Scenario(
        name="sync/bypass-later-gpt-sgd",
        says="the same in a GPT with SGD",
        train=bypass,
        kind=MISSING,
        at=40,
        steps=80,
        task="gpt",
        optimizer="sgd",
    ),
    Scenario(
        name="sync/bypass-later-lstm",
        says="the same in an LSTM, three ranks",
        train=bypass,
        kind=MISSING,
        at=40,
        steps=80,
        task="lstm",
        ranks=(3,),
    ),
    Scenario(
        name="sync/bypass-on-one-rank",
        says="one rank steps on a gradient of its own",
        train=bypass_on_one_rank,
        kind=MISSING,
        at=40,
        culprits=(1,),
        steps=80,
        ranks=(2, 3, 4),
    ),
    Scenario(
        name="sync/bypass-on-one-rank-cnn",
        says="the same in a CNN with SGD",
        train=bypass_on_one_rank,
        kind=MISSING,
        at=40,
        culprits=(2,),
        steps=80,
        task="cnn",
        optimizer="sgd",
        ranks=(4,),
    ),
    Scenario(
        name="sync/no-sync-from-start",
        says="all training happens inside no_sync",
        train=no_sync,
        kind=MISSING,
        steps=40,
    ),
    Scenario(
        name="sync/no-sync-later",
        says="no_sync is entered and never left",
        train=no_sync,
        kind=MISSING,
        at=40,
        steps=80,
    ),
    Scenario(
        name="sync/forward-in-no-sync",
        says="only the forward is inside no_sync",
        train=forward_in_no_sync,
        kind=MISSING,
        at=40,
        steps=80,
        optimizer="sgd",
    ),
    Scenario(
        name="sync/no-sync-every-other-step",
        says="every other optimizer step is taken inside no_sync",
        train=no_sync_every_other_step,
        kind=MISSING,
        steps=60,
    ),
    Scenario(
        name="sync/autograd-grad-from-start",
        says="torch.autograd.grad instead of backward",
        train=autograd_grad,
        kind=MISSING,
        steps=40,
    ),
    Scenario(
        name="sync/autograd-grad-later",
        says="torch.autograd.grad instead of backward from a step on",
        train=autograd_grad,
        kind=MISSING,
        at=40,
        steps=80,
    ),
    Scenario(
        name="sync/unused-at-last-step",
        says="a layer is not used in the last step, whose reduction never ends",
        train=unused_at_last_step,
        kind=MISSING,
        at=_LAST,
        pinned=True,
        steps=_LAST + 1,
    ),
    Scenario(
        name="sync/replaced-parameter",
        says="a parameter is replaced by a new one before the last step",
        train=replace_parameter,
        kind=MISSING,
        at=_LAST,
        pinned=True,
        steps=_LAST + 1,
    ),
    Scenario(
        name="sync/unfreeze-after-wrapping",
        says="a layer is unfrozen that DDP does not know",
        train=unfreeze,
        kind=MISSING,
        at=40,
        steps=80,
    ),
    Scenario(
        name="sync/ignored-parameter",
        says="DDP ignores a layer that is trained",
        train=ignored_parameter,
        kind=MISSING,
        steps=60,
    ),
    Scenario(
        name="sync/hook-without-reduction",
        says="the user's communication hook forgets to reduce",
        train=hook_that_does_not_reduce,
        kind=MISSING,
        steps=40,
    ),
    Scenario(name="sync/unwrapped", says="nobody wrapped the model", train=unwrapped, kind=MISSING, steps=40),
    Scenario(
        name="sync/slipped-rank",
        says="one rank skips one all-reduce and is one behind from then on",
        train=slipped_rank,
        kind=MISSING,
        at=40,
        culprits=(1,),
        steps=120,
        ending=Ending.KILLED,
        patience_seconds=20.0,
        # Its last all-reduce has nobody left to meet.
        also=("hang",),
    ),
    Scenario(
        name="sync/bit-flip",
        says="one bit of one weight flips on one rank",
        train=flip_bit,
        kind=DESYNC,
        at=43,
        culprits=(1,),
        ranks=(2, 3, 4),
        steps=90,
    ),
    Scenario(
        name="sync/bit-flip-gpt-sgd",
        says="the same in a GPT with SGD",
        train=flip_bit,
        kind=DESYNC,
        at=43,
        culprits=(3,),
        ranks=(4,),
        steps=90,
        task="gpt",
        optimizer="sgd",
    ),
    Scenario(
        name="sync/reload-on-one-rank",
        says="one rank loads earlier weights",
        train=reload_on_one_rank,
        kind=DESYNC,
        at=43,
        culprits=(1,),
        steps=90,
    ),
    Scenario(
        name="sync/new-head-on-one-rank",
        says="one rank's last layer gets new weights",
        train=new_head_on_one_rank,
        kind=DESYNC,
        at=43,
        culprits=(0,),
        ranks=(3, 4),
        steps=90,
        task="cnn",
    ),
    Scenario(
        name="sync/local-buffers",
        says="broadcast_buffers=False with batch normalisation: buffers differ from the first step on",
        train=local_buffers,
        kind=DESYNC,
        steps=60,
        task="cnn",
        optimizer="sgd",
    ),
)
