"""Models that are changed while they train, or after DDP and the optimizer were made: what was missed at the default setting once."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job
from faults.scenario import Scenario
from faults.tasks import TASKS, make_optimizer

MISSING = "missing_gradient_sync"
DESYNC = "replica_desync"
INEFFECTIVE = "ineffective_update"


def _model(job: Job) -> nn.Module:
    job.seed_model()
    return TASKS[job.case.scenario.task].model()


def _optimizer(job: Job, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    scenario = job.case.scenario
    return make_optimizer(
        scenario.optimizer, parameters, TASKS[scenario.task].learning_rate[scenario.optimizer]
    )


def _first(model: nn.Module) -> nn.Module:
    """The first part with parameters of its own."""
    return next(each for each in model.modules() if list(each.parameters(recurse=False)))


def thawed(job: Job) -> None:
    """The first layer is frozen when DDP is made, and in the optimizer all the time; `healthy`: it is wrapped again."""
    model = _model(job)
    optimizer = _optimizer(job, list(model.parameters()))
    _first(model).requires_grad_(False)
    training = job.training(model=DistributedDataParallel(model), optimizer=optimizer)
    for step in training.iterate():
        if step == job.at:
            _first(training.module).requires_grad_(True)
            if job.options.get("healthy"):
                training.agent.close()
                training.model = DistributedDataParallel(training.module)
                del training.__dict__["module"]
                training.agent = training._attach()
        training.train(step)
    training.close()


def held_by_nobody(job: Job) -> None:
    """The optimizer was made from a copy of the model, or before its last layer was replaced."""
    model = _model(job)
    source = copy.deepcopy(model) if job.options["form"] == "copy" else model
    optimizer = _optimizer(job, list(source.parameters()))
    if job.options["form"] == "replaced":
        name, last = [each for each in model.named_children() if list(each[1].parameters())][-1]
        torch.manual_seed(job.case.seed + 1)
        setattr(model, name, nn.Linear(last.in_features, last.out_features))
    job.training(model=DistributedDataParallel(model), optimizer=optimizer).run()


def replaced(job: Job) -> None:
    """All ranks exchange the first layer's weight after some steps, and add it to the optimizer: DDP does not know it."""
    model = DistributedDataParallel(_model(job), find_unused_parameters=True)
    training = job.training(model=model)
    for step in training.iterate():
        if step == job.at:
            layer = _first(training.module)
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            training.optimizer.add_param_group({"params": [layer.weight]})
        training.train(step)
    training.close()


def other_weights(job: Job) -> None:
    """One rank's weights become others, in one of the ways that scripts have for it; `healthy`: every rank's do."""
    training = job.training()
    module, form = training.module, job.options["form"]
    average = copy.deepcopy(module.state_dict())
    for step in training.iterate():
        if step == job.at and (job.is_culprit or job.options.get("healthy")):
            if form == "new":
                torch.manual_seed(99)
                for each in module.modules():
                    if hasattr(each, "reset_parameters"):
                        each.reset_parameters()
            elif form == "average":
                module.load_state_dict(average)
            else:
                with torch.no_grad():
                    for each in module.parameters():
                        each.mul_(0.9)
        training.train(step)
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                average[name].mul_(0.9).add_(value, alpha=0.1)
    training.close()


def flipped_gradient(job: Job) -> None:
    """One bit of the averaged gradient is another on one rank, once."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        if step == job.at and job.is_culprit:
            gradient = max(training.gradients(), key=torch.Tensor.numel)
            gradient.view(-1).view(torch.int32)[gradient.numel() // 3] ^= 1 << 22
        training.finish(loss)
    training.close()


_ONE = {"culprits": (1,), "at": 50, "steps": 160}
SCENARIOS = (
    Scenario(
        name="sync/thawed-lstm", says="an LSTM's embedding is thawed that was frozen when DDP was made",
        train=thawed, kind=MISSING, at=50, steps=160, task="lstm", ranks=(3,),
    ),
    Scenario(
        name="sync/thawed-mlp", says="a first layer is thawed that was frozen when DDP was made, steps of 30 ms",
        train=thawed, kind=MISSING, at=50, steps=140, ranks=(2, 5), compute_seconds=0.03,
    ),
    Scenario(
        name="sync/replaced-parameter-later", says="a parameter is replaced after attach, and DDP looks for unused ones",
        train=replaced, kind=MISSING, at=50, steps=160, ranks=(2, 3),
    ),
    Scenario(
        name="update/optimizer-of-a-copy", says="the optimizer was made from a copy of the model",
        train=held_by_nobody, kind=INEFFECTIVE, steps=160, task="lstm", options={"form": "copy"}, # What no step moves is flat.
        also=("plateau",),
        ranks=(2,),
    ),
    Scenario(
        name="update/optimizer-before-new-layer", says="the optimizer was made before the last layer was replaced",
        train=held_by_nobody, kind=INEFFECTIVE, steps=160, options={"form": "replaced"}, ranks=(2, 3),
    ),
    Scenario(
        name="sync/new-weights-lstm", says="one rank initialises its weights anew",
        train=other_weights, kind=DESYNC, task="lstm", options={"form": "new"}, ranks=(3,), **_ONE,
    ),
    Scenario(
        name="sync/averaged-weights", says="one rank swaps averaged weights in and not out",
        train=other_weights, kind=DESYNC, options={"form": "average"}, ranks=(2, 4), **_ONE,
    ),
    Scenario(
        name="sync/checkpoint-on-rank-0", says="rank 0 alone loads weights after the first step",
        train=other_weights, kind=DESYNC, options={"form": "smaller"}, ranks=(2, 5),
        culprits=(0,), at=1, pinned=True, steps=160, compute_seconds=0.02,
    ),
    Scenario(
        name="sync/flipped-gradient-bit", says="one bit of one rank's averaged gradient is another, once",
        # What is edited after averaging, and replicas that differ by it: both are true.
        train=flipped_gradient, kind=DESYNC, also=("divergent_update",), task="gpt", ranks=(3,), **_ONE,
    ),
    Scenario(
        name="healthy/thawed-and-wrapped-again", says="a layer is thawed and the model wrapped and attached again",
        train=thawed, at=50, pinned=True, steps=160, options={"healthy": True}, ranks=(2,),
    ),
    Scenario(
        name="healthy/new-weights-on-all", says="every rank swaps averaged weights in",
        train=other_weights, at=50, steps=160, options={"form": "average", "healthy": True}, ranks=(3,),
    ),
)  # fmt: skip
