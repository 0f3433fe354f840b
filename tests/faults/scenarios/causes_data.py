"""Why learning stalled, on the side of the data, of a restart, of a change somebody made; and ends of learning in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from faults.job import Job, Training
from faults.scenario import Scenario
from faults.scenarios.causes_optimization import cause
from faults.tasks import TASKS, Batch, Bigrams

EVALUATE_EVERY = 25
REPEATED = 40
"""Steps between the last checkpoint and the end of the first attempt."""


def outputs(model: nn.Module) -> int:
    """Numbers that a model gives for each sample."""
    return [each for each in model.modules() if isinstance(each, nn.Linear)][-1].out_features


def evaluate(training: Training, step: int) -> None:
    """The loss of clean samples, now and then."""
    if step % EVALUATE_EVERY:
        return
    inputs, target = training.task.batch(torch.Generator().manual_seed(31 + training.job.case.seed), 128)
    training.module.eval()
    with torch.no_grad():
        loss = training.task.loss(training.module(inputs), target)
    training.module.train()
    training.agent.log_eval(loss, 128)


def learn(job: Job, change: Callable[[Training, int, Batch], Batch] | None = None, **options: Any) -> None:
    """The usual training on changed batches; evaluates on clean ones where asked for."""
    training = job.training(**options)
    for step in training.iterate():
        batch = training.batch(step)
        if change is not None:
            batch = change(training, step, batch)
        training.finish(training.backward(step, batch=batch))
        if job.options.get("evaluate"):
            evaluate(training, step)
    training.close()


def converge(job: Job) -> None:
    """Trains until only noise is left; `rate` times the usual learning rate."""
    rate = TASKS[job.case.scenario.task].learning_rate[job.case.scenario.optimizer]
    learn(job, learning_rate=rate * job.options.get("rate", 1.0), samples=job.options.get("samples"))


def narrow(job: Job) -> None:
    """A model that is too small for its task."""
    job.seed_model()
    scenario, width = job.case.scenario, job.options["width"]
    task = TASKS[scenario.task]
    last = outputs(task.model())
    model = (
        Bigrams(last, width)
        if scenario.task in ("gpt", "lstm")
        else nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, last))
    )
    rate = task.learning_rate[scenario.optimizer]
    learn(job, model=model, learning_rate=rate * job.options.get("rate", 1.0))


def others(training: Training, step: int, batch: Batch, share: float) -> tuple[Batch, torch.Tensor]:
    """A share of the targets is drawn at random; which ones, is returned as well."""
    inputs, target = batch
    generator = training.job.generator(step + 1_000_000)
    wrong = torch.rand(len(target), generator=generator) < share
    noise = torch.randint(outputs(training.module), target.shape, generator=generator)
    return (inputs, torch.where(wrong.view(-1, *[1] * (target.dim() - 1)), noise, target)), wrong


def each_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss of every sample."""
    if target.is_floating_point():
        return (output - target).square().flatten(1).mean(1)
    losses = nn.functional.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
    return losses.view(len(output), -1).mean(1)


def step_on(training: Training, loss: torch.Tensor, **told: Any) -> None:
    """One step on a loss, told with its groups or components."""
    loss.backward()
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.agent.log(loss.detach(), training.samples, **told)


def wrong_labels(job: Job) -> None:
    """A quarter of the labels is random, and comes from an annotator that is told of; or evaluation is clean."""
    training = job.training()
    for step in training.iterate():
        (inputs, target), wrong = others(training, step, training.batch(step), job.options["share"])
        losses = each_loss(training.model(inputs), target)
        kept = losses.detach()
        groups = {
            name: (kept[chosen].sum(), int(chosen.sum()))
            for name, chosen in (("first annotator", ~wrong), ("second annotator", wrong))
            if chosen.any() and not job.options.get("evaluate")
        }
        step_on(training, losses.mean(), groups=groups or None)
        if job.options.get("evaluate"):
            evaluate(training, step)
    training.close()


def spoiled_group(job: Job) -> None:
    """The inputs of a quarter of the samples do not arrive."""
    training = job.training()
    for step in training.iterate():
        inputs, target = training.batch(step)
        first = len(inputs) // 4
        inputs = inputs.clone()
        inputs[:first] = 0
        losses = each_loss(training.model(inputs), target)
        kept = losses.detach()
        groups = {
            "left": (kept[:first].sum(), first),
            "right": (kept[first:].sum(), len(kept) - first),
        }
        step_on(training, losses.mean(), groups=groups)
    training.close()


def detached_term(job: Job) -> None:
    """One of two terms of the loss is cut off from the model."""
    training = job.training()
    for step in training.iterate():
        inputs, target = training.batch(step)
        output = training.model(inputs)
        half = output.shape[1] // 2
        # Not an unused output: the term's gradient is nothing, as after a detach() that went too far.
        second = output[:, half:].detach() + 0 * output[:, half:]
        parts = {
            "position": (output[:, :half] - target[:, :half]).square().mean(),
            "velocity": (second - target[:, half:]).square().mean(),
        }
        loss = torch.stack(list(parts.values())).sum()
        step_on(training, loss, components={name: each.detach() for name, each in parts.items()})
    training.close()


def late_penalty(job: Job) -> None:
    """A penalty that works against the task is switched on, and nobody says so."""
    training = job.training()
    for step in training.iterate():
        inputs, target = training.batch(step)
        output = training.model(inputs)
        peaked = output.softmax(-1).square().sum(-1).mean()
        parts = {
            "task": training.task.loss(output, target),
            "penalty": 8.0 * float(step >= job.at) * peaked,
        }
        loss = parts["task"] + parts["penalty"]
        step_on(training, loss, components={name: each.detach() for name, each in parts.items()})
    training.close()


def few_batches(job: Job) -> None:
    """The same few batches again and again, of a data set that was declared larger."""

    def again(training: Training, step: int, _batch: Batch) -> Batch:
        return training.batch(10_000_000 + step % job.options["batches"])

    samples = TASKS[job.case.scenario.task].samples
    learn(job, again, dataset_size=8 * job.options["batches"] * samples * job.world_size)


def shifted(job: Job) -> None:
    """The data become others at a step."""

    def shift(training: Training, step: int, batch: Batch) -> Batch:
        if step < job.at:
            return batch
        inputs, target = batch
        if job.options["what"] == "inputs":
            return -3.0 * inputs.flip(-1), target
        if target.is_floating_point():  # measurements have become coarse
            noise = torch.randn(target.shape, generator=job.generator(step + 4_000_000))
            return inputs, target + 1.5 * noise
        return others(training, step, batch, 0.5)[0]

    statistics = {"input_statistics": True} if job.options["what"] == "inputs" else {}
    learn(job, shift, **statistics)


def augmented(job: Job) -> None:
    """Noise on the inputs from a step on, and an event that says so."""

    def noisy(training: Training, step: int, batch: Batch) -> Batch:
        if step < job.at:
            return batch
        if step == job.at:
            training.agent.event("augmentation: noise on the inputs", kind="augmentation")
        inputs, target = batch
        noise = torch.randn(inputs.shape, generator=job.generator(step + 3_000_000))
        return inputs + job.options["noise"] * noise, target

    learn(job, noisy)


def restarted(job: Job) -> None:
    """The second attempt takes up the checkpoint, without the optimizer's state or without the weights."""
    training = job.training()
    if job.attempt:
        if job.options["lost"] == "state":
            training.optimizer.state.clear()
        else:
            job.seed_model()
            training.module.load_state_dict(training.task.model().state_dict())
    for step in training.iterate(until=job.at if not job.attempt else None):
        if step == job.at - REPEATED and not job.attempt:
            training.save(step)
        training.train(step)
    training.close()


def _cause(kind: str, words: str, *arguments: Any, **changes: Any) -> Scenario:
    return cause("causes_data", kind, words, *arguments, **changes)


BENIGN = ("noise_floor", "capacity_limit")
TWICE: Any = lambda ranks: (ranks, ranks)  # noqa: E731 - a table's entry
SCENARIOS = (
    # What a model cannot fit is noise to it: where most of the loss is gone, or little, is a convention.
    _cause("noise_floor", "mlp", "trained to the noise", converge, "mlp", "sgd", at=0, steps=2500, named=BENIGN),
    _cause("noise_floor", "mlp-adamw", "trained to the noise", converge, "mlp", "adamw", at=0, steps=2500, rate=4.0, named=BENIGN),
    _cause("capacity_limit", "mlp", "one hidden unit", narrow, "mlp", "sgd", at=0, steps=2000, width=1, rate=2.0, named=BENIGN),
    _cause("capacity_limit", "bigrams", "two numbers a character", narrow, "gpt", "adamw", at=0, steps=2500, width=2, rate=20.0, named=BENIGN),
    _cause("batch_too_small", "mlp", "batches of a few samples", converge, "mlp", "sgd", at=0, steps=2500, rate=2.0, samples=1, ranks=(2,), named=("lr_too_high",)),
    _cause("batch_too_small", "mlp-adamw", "batches of a few samples", converge, "mlp", "adamw", at=0, steps=2500, rate=10.0, samples=1, ranks=(2,), named=("lr_too_high",)),
    _cause("label_noise", "cnn", "a quarter of the labels is random, of one annotator", wrong_labels, "cnn", "sgd", at=0, steps=2600, share=0.25),
    _cause("label_noise", "gpt", "a quarter of the texts is random, of one annotator", wrong_labels, "gpt", "adamw", at=0, steps=2600, share=0.25),
    _cause("label_noise", "cnn-evaluated", "two labels in five are random, and evaluation is clean", wrong_labels, "cnn", "sgd", at=0, steps=2600, share=0.4, evaluate=True),
    _cause("group_stall", "cnn", "a quarter of the images is empty", spoiled_group, "cnn", "sgd", at=0),
    _cause("group_stall", "mlp", "a quarter of the inputs is empty", spoiled_group, "mlp", "adamw", at=0, steps=2000),
    _cause("component_stall", "mlp", "one of two terms is detached", detached_term, "mlp", "adamw", at=0),
    _cause("component_stall", "gpt", "a penalty works against the task", late_penalty, "gpt", "adamw"),
    _cause("data_shortfall", "cnn", "an eighth of the data set is seen", few_batches, "cnn", "adamw", at=0, steps=900, batches=12),
    _cause("data_shortfall", "mlp", "an eighth of the data set is seen", few_batches, "mlp", "sgd", at=0, steps=900, batches=25),
    _cause("distribution_shift", "mlp", "targets become noisy", shifted, "mlp", "sgd", what="labels"),
    _cause("distribution_shift", "cnn", "half of the labels become random", shifted, "cnn", "adamw", what="labels"),
    _cause("distribution_shift", "mlp-inputs", "inputs are scaled and mirrored", shifted, "mlp", "adamw", what="inputs"),
    _cause("restart_regression", "mlp", "the optimizer's state is lost at a restart", restarted, "mlp", "adamw", lost="state", worlds=TWICE),
    _cause("restart_regression", "gpt", "the optimizer's state is lost at a restart", restarted, "gpt", "adamw", lost="state", worlds=TWICE),
    _cause("restart_regression", "cnn", "the weights are lost at a restart", restarted, "cnn", "sgd", lost="weights", worlds=TWICE),
    _cause("user_change", "mlp", "noise on the inputs is switched on, and told", augmented, "mlp", "adamw", noise=3.0),
    _cause("user_change", "cnn", "noise on the inputs is switched on, and told", augmented, "cnn", "sgd", noise=4.0),
)  # fmt: skip
