"""Why learning stalled, on the side of the optimisation: each fault on two tasks or more, with healthy ones that look like it.

A cause counts as found when it is a finding of its own, or comes first under a verdict about the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from faults.job import Job, Training
from faults.scenario import Scenario
from faults.tasks import TASKS, make_optimizer

# What a stall looks like from outside; the cause is what has to be said of it.
LOSS = ("plateau", "slow_convergence", "oscillation", "divergence", "loss_spike", "eval_plateau")
# Jobs of milliseconds a step that run side by side on few cores do slow each other down.
STALLS = (*LOSS, "throughput_regression")
AT = 240


def lr_factor(job: Job) -> None:
    """The learning rate is multiplied at a step."""
    training = job.training()
    for step in training.iterate():
        if step == job.at:
            training.set_learning_rate(job.options["factor"] * training.learning_rate)
        training.train(step)
    training.close()


class Stack(nn.Sequential):
    """A plain stack for the perceptron's task."""

    def __init__(self, layers: int, activation: type[nn.Module], gain: float) -> None:
        parts: list[nn.Module] = []
        for index in range(layers):
            linear = nn.Linear(16 if index == 0 else 48, 48)
            nn.init.normal_(linear.weight, std=gain / linear.in_features**0.5)
            parts += [linear, activation()]
        super().__init__(*parts, nn.Linear(48, 4))


def small_weights(job: Job) -> None:
    """A deep stack of sigmoids: nothing reaches its first layers."""
    job.seed_model()
    training = job.training(model=Stack(10, job.options["activation"], job.options["gain"]))
    training.run()


def outbursts(job: Job) -> None:
    """One backward in five gives a gradient that is larger by orders."""
    training = job.training()
    for step in training.iterate():
        # The same steps on all ranks.
        wild = step >= job.at and float(torch.rand((), generator=job.generator(step, 0))) < 0.2
        training.finish(training.backward(step, scale=job.options["times"] if wild else 1.0))
    training.close()


def clipped(job: Job) -> None:
    """Gradients are clipped to a small share of what they are."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        if step >= job.at:
            nn.utils.clip_grad_norm_(training.model.parameters(), job.options["norm"])
        training.finish(loss)
    training.close()


def half_without_scaler(job: Job) -> None:
    """Half precision, a loss that is divided by much, and no gradient scaler."""
    training = job.training()
    for step in training.iterate():
        inputs, target = training.batch(step)
        with torch.autocast("cpu", dtype=torch.float16):
            output = training.model(inputs)
        loss = training.task.loss(output.float(), target)
        (loss * (job.options["factor"] if step >= job.at else 1.0)).backward()
        training.finish(loss.detach())
    training.close()


def skipping(job: Job) -> None:
    """A gradient scaler that finds an infinity again and again."""
    training = job.training()
    scale, good = 2.0**16, 0
    for step in training.iterate():
        loss = training.backward(step, scale=scale)
        if step >= job.at and float(torch.rand((), generator=job.generator(step, 0))) < job.options["share"]:
            scale, good = max(scale / 2, 1.0), 0
            training.optimizer.zero_grad()
            continue
        for gradient in training.gradients():
            gradient.div_(scale)
        training.finish(loss)
        good += 1
        if good >= job.options.get("growth", 8):
            scale, good = min(2 * scale, 2.0**20), 0
    training.close()


def remembered_spike(job: Job) -> None:
    """Some huge gradients, which Adam's second moments do not forget."""
    training = job.training()
    for step in training.iterate():
        wild = job.at <= step < job.at + 12
        training.finish(training.backward(step, scale=1e6 if wild else 1.0))
    training.close()


def frozen(job: Job) -> None:
    """Most of the model stops getting a gradient."""
    training = job.training()
    for step in training.iterate():
        if step == job.at:
            parameters = list(training.model.parameters())
            for each in parameters[: int(job.options.get("share", 0.75) * len(parameters))]:
                each.register_hook(torch.zeros_like)
        training.train(step)
    training.close()


def saturated(job: Job) -> None:
    """Weights so large that tanh sits at its limits."""
    training = job.training()
    for step in training.iterate():
        if step == job.at:
            with torch.no_grad():
                for each in [part for part in training.model.modules() if isinstance(part, nn.Linear)][:-1]:
                    each.weight.mul_(60.0)
        training.train(step)
    training.close()


def dead(job: Job) -> None:
    """ReLU units that are pushed below zero at a step and never fire again."""
    job.seed_model()
    training = job.training(model=Stack(3, nn.ReLU, 2**0.5))
    for step in training.iterate():
        if step == job.at:
            with torch.no_grad():
                for index, each in enumerate(
                    [part for part in training.model.modules() if isinstance(part, nn.Linear)][:-1]
                ):
                    count = int(job.options["share"] * len(each.bias))
                    each.weight[:count] = (
                        0.02 * each.weight[:count] if index == 0 else -each.weight[:count].abs()
                    )
                    each.bias[:count] = -1.0
        training.train(step)
    training.close()


def decay(job: Job) -> None:
    """Weight decay is turned up."""
    training = job.training()
    for step in training.iterate():
        if step == job.at:
            for group in training.optimizer.param_groups:
                group["weight_decay"] = job.options["decay"]
        training.train(step)
    training.close()


def frozen_before(job: Job) -> None:
    """Half of the model was frozen on purpose before it was wrapped."""
    job.seed_model()
    scenario = job.case.scenario
    model = TASKS[scenario.task].model()
    parameters = list(model.parameters())
    for each in parameters[: len(parameters) // 2]:
        each.requires_grad_(requires_grad=False)
    rate = TASKS[scenario.task].learning_rate[scenario.optimizer]
    trained = [each for each in parameters if each.requires_grad]
    training: Training = job.training(
        model=model, optimizer=make_optimizer(scenario.optimizer, trained, rate)
    )
    training.run()


def cause(
    theme: str,
    kind: str,
    words: str,
    says: str,
    train: Callable[[Job], Any],
    task: str,
    optimizer: str,
    **changes: Any,
) -> Scenario:
    """A scenario with this cause; `changes` are fields of `Scenario`, or options of the training function."""
    own = {each.name for each in fields(Scenario)}
    given: dict[str, Any] = {"at": AT, "steps": 1400, "ranks": (2, 4), "also": STALLS, **changes}
    return Scenario(
        name=f"{theme}/{kind.replace('_', '-')}-{words}",
        says=says,
        train=train,
        kind=kind,
        task=task,
        optimizer=optimizer,
        compute_seconds=0.0,
        options={name: value for name, value in given.items() if name not in own},
        patience_seconds=120.0,
        **{name: value for name, value in given.items() if name in own},
    )


def _cause(kind: str, words: str, *arguments: Any, **changes: Any) -> Scenario:
    return cause("causes_optimization", kind, words, *arguments, **changes)


CUT = "the learning rate falls to a thousandth, too early"
RAISED = "the learning rate is raised by far"
SCENARIOS = (
    _cause("lr_too_low", "gpt", CUT, lr_factor, "gpt", "adamw", factor=1e-3),
    _cause("lr_too_low", "lstm", CUT, lr_factor, "lstm", "sgd", factor=1e-3),
    _cause("lr_too_low", "cnn", CUT, lr_factor, "cnn", "sgd", factor=1e-3),
    # Units that are thrown to their limits are dead indeed.
    _cause("lr_too_high", "mlp", RAISED, lr_factor, "mlp", "adamw", factor=100.0, also=(*STALLS, "dead_units")),
    _cause("lr_too_high", "gpt", RAISED, lr_factor, "gpt", "adamw", factor=60.0, also=(*STALLS, "dead_units")),
    _cause(
        "vanishing_gradients", "sigmoid", "ten layers of sigmoids", small_weights, "mlp", "sgd",
        activation=nn.Sigmoid, gain=1.0, at=0,
    ),
    _cause(
        "vanishing_gradients", "tanh", "ten layers of tanh with small weights", small_weights, "mlp", "sgd",
        activation=nn.Tanh, gain=0.15, at=0, also=(*STALLS, "ineffective_update"),
    ),
    _cause(
        "exploding_gradients", "mlp", "one gradient in five is larger by orders", outbursts, "mlp", "sgd",
        times=100.0, also=(*STALLS, "non_finite", "dead_units"),
    ),
    _cause(
        "exploding_gradients", "cnn", "one gradient in five is larger by orders", outbursts, "cnn", "sgd",
        times=300.0, also=(*STALLS, "non_finite", "dead_units"),
    ),
    _cause("clipping_saturated", "cnn", "gradients are clipped to a thousandth", clipped, "cnn", "sgd", norm=2e-3),
    _cause("clipping_saturated", "lstm", "gradients are clipped to a thousandth", clipped, "lstm", "sgd", norm=1e-3),
    _cause("amp_underflow", "cnn", "float16 without a loss scale", half_without_scaler, "cnn", "adamw", factor=1e-6),
    _cause("amp_underflow", "gpt", "float16 without a loss scale", half_without_scaler, "gpt", "adamw", factor=1e-6),
    _cause("amp_overflow", "mlp", "half of all steps are skipped", skipping, "mlp", "adamw", share=0.5),
    _cause("amp_overflow", "cnn", "two steps in three are skipped", skipping, "cnn", "sgd", share=0.67),
    _cause("optimizer_starved", "mlp", "second moments remember a spike", remembered_spike, "mlp", "adamw"),
    _cause("optimizer_starved", "gpt", "second moments remember a spike", remembered_spike, "gpt", "adamw"),
    _cause("frozen_parameters", "gpt", "three quarters get no gradient any more", frozen, "gpt", "adamw"),
    _cause("frozen_parameters", "cnn", "three quarters get no gradient any more", frozen, "cnn", "sgd"),
    _cause("dead_units", "tanh", "tanh at its limits", saturated, "mlp", "adamw"),
    _cause("dead_units", "relu", "ReLU units that never fire", dead, "mlp", "adamw", share=0.95),
    _cause("over_regularized", "mlp", "weight decay of 30", decay, "mlp", "adamw", decay=30.0),
    _cause("over_regularized", "cnn", "L2 of 0.3", decay, "cnn", "sgd", decay=0.3),
    Scenario(
        name="causes_optimization/healthy-clipped",
        says="every step of a GPT is clipped by about a half",
        train=clipped,
        task="gpt",
        steps=400,
        compute_seconds=0.0,
        options={"norm": 0.4},
    ),
    Scenario(
        name="causes_optimization/healthy-frozen-before",
        says="half of the model was frozen before it was wrapped",
        train=frozen_before,
        task="cnn",
        steps=400,
        compute_seconds=0.0,
    ),
    Scenario(
        name="causes_optimization/healthy-scaler",
        says="a gradient scaler that skips a step once in a while",
        train=skipping,
        task="mlp",
        steps=400,
        compute_seconds=0.0,
        options={"share": 0.005, "growth": 100},
    ),
    Scenario(
        name="causes_optimization/healthy-dead-third",
        says="a third of the ReLU units is dead",
        train=dead,
        at=100,
        steps=400,
        compute_seconds=0.0,
        options={"share": 0.33},
    ),
)  # fmt: skip
