"""Stalls that come from the data, from a restart or from a change somebody made, benign ends of learning, and look-alikes."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from bench.diagnosis_scenarios.scenario import HEALTHY, Scenario
from faults.tasks import Bigrams
from support.in_process import Batch, Recorded, Training, record

CHANGE = 400
"""The step at which most of it happens; seeds move it."""
EVALUATE_EVERY = 25
_REPEATED = 40
"""Steps between the last checkpoint and the end of an attempt."""


def _change(training: Training) -> int:
    return int(training.options.get("at", CHANGE)) + 7 * training.seed


def _classes_of(training: Training) -> int:
    return [each for each in training.model.modules() if isinstance(each, nn.Linear)][-1].out_features


class Evaluated(Training):
    """Evaluates on clean samples of its own; tells the accuracy where there is one."""

    def log(self, step: int, batch: Batch, losses: torch.Tensor) -> None:
        """Tell the agent."""
        super().log(step, batch, losses)
        if step % EVALUATE_EVERY == 0 and self.options.get("evaluate", True):
            inputs, target = self.task.batch(torch.Generator().manual_seed(31 + self.seed), 256)
            self.model.eval()
            with torch.no_grad():
                output = self.model(inputs)
                loss = self.task.losses(output, target).mean()
            self.model.train()
            metrics = {}
            if not target.is_floating_point():
                metrics["accuracy"] = (output.argmax(-1) == target).float().mean()
            self.agent.log_eval(loss, 256, **metrics)

    def schedule(self, step: int) -> float:
        """Factor of the learning rate: a cosine to zero, where asked for."""
        if not self.options.get("cosine"):
            return 1.0
        return max(0.5 * (1 + math.cos(math.pi * step / self.steps)), 1e-6)

    def before(self, step: int) -> None:
        """Before the forward."""
        if self.options.get("cosine"):
            self.rate = self.good_rate * self.schedule(step)


class Narrow(Evaluated):
    """A model that is too small for its task."""

    def make_model(self) -> nn.Module:
        """The model."""
        width = self.options.get("width", 1)
        whole = self.task.model()
        last = [each for each in whole.modules() if isinstance(each, nn.Linear)][-1]
        if any(isinstance(each, nn.Embedding) for each in whole.modules()):
            return Bigrams(last.out_features, width)
        if isinstance(next(whole.modules()), nn.Sequential) and isinstance(whole[0], nn.Conv2d):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, last.out_features))
        return nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, last.out_features))


class WrongLabels(Evaluated):
    """A share of the labels is drawn at random, anew for each batch; evaluation is clean."""

    def batch(self, step: int) -> Batch:
        """The samples of all ranks."""
        inputs, target = super().batch(step)
        generator = self.generator(step + 1_000_000)
        self.wrong = torch.rand(len(target), generator=generator) < self.options.get("share", 0.4)
        noise = torch.randint(_classes_of(self), target.shape, generator=generator)
        where = self.wrong.view(-1, *[1] * (target.dim() - 1))
        return inputs, torch.where(where, noise, target)

    def log(self, step: int, batch: Batch, losses: torch.Tensor) -> None:
        """Tell the agent."""
        if not self.options.get("grouped"):
            super().log(step, batch, losses)
            return
        groups = {}
        for name, chosen in (("first annotator", ~self.wrong), ("second annotator", self.wrong)):
            if chosen.any():
                groups[name] = (losses[chosen].sum(), int(chosen.sum()))
        self.agent.log(losses.mean(), self.samples, groups=groups)


class Grouped(Evaluated):
    """Two groups of samples: the first of every batch, and the others."""

    def part(self, count: int) -> int:
        """Samples of the first group."""
        return max(int(self.options.get("share", 0.25) * count), 1)

    def batch(self, step: int) -> Batch:
        """The samples of all ranks."""
        inputs, target = super().batch(step)
        kind, first = self.options["kind"], self.part(len(inputs))
        if kind == "spoiled":  # a modality that does not arrive
            inputs = inputs.clone()
            inputs[:first] = 0
        if kind == "harder":
            generator = self.generator(step + 2_000_000)
            inputs = inputs.clone()
            inputs[:first] += 0.7 * torch.randn(inputs[:first].shape, generator=generator)
        return inputs, target

    def log(self, step: int, batch: Batch, losses: torch.Tensor) -> None:
        """Tell the agent."""
        first = self.part(len(losses))
        groups = {
            "left": (losses[:first].sum(), first),
            "right": (losses[first:].sum(), len(losses) - first),
        }
        self.agent.log(losses.mean(), self.samples, groups=groups)


class Composite(Training):
    """Two terms: halves of a regression's outputs, or the task's loss and a penalty."""

    def losses(self, model: nn.Module, batch: Batch, step: int) -> torch.Tensor:
        """The loss of each sample."""
        kind = self.options["kind"]
        output = model(batch[0])
        if kind in ("detached", "both"):
            half = output.shape[1] // 2
            second = output[:, half:].detach() if kind == "detached" else output[:, half:]
            self.parts = {
                "position": (output[:, :half] - batch[1][:, :half]).square().mean(1),
                "velocity": (second - batch[1][:, half:]).square().mean(1),
            }
        else:
            on = 1.0 if step >= _change(self) else 0.0
            logits = output.flatten(0, -2).view(len(output), -1, output.shape[-1])
            peaked = logits.softmax(-1).square().sum(-1).mean(1)  # pushes predictions apart
            self.parts = {
                "task": self.task.losses(output, batch[1]),
                "penalty": self.options.get("weight", 8.0) * on * peaked,
            }
        return sum(self.parts.values())  # type: ignore[return-value]

    def log(self, step: int, batch: Batch, losses: torch.Tensor) -> None:
        """Tell the agent."""
        terms = {name: each.detach().mean() for name, each in self.parts.items()}
        self.agent.log(losses.mean(), self.samples, components=terms)


class Cycled(Evaluated):
    """The same few batches again and again; the data set has more, or just these."""

    def batch(self, step: int) -> Batch:
        """The samples of all ranks."""
        return super().batch(10_000_000 + step % self.options["batches"])


class Shifted(Training):
    """The data become others at a step."""

    def batch(self, step: int) -> Batch:
        """The samples of all ranks."""
        inputs, target = super().batch(step)
        if step < _change(self):
            return inputs, target
        kind = self.options["kind"]
        if kind == "inputs":
            return inputs + 1.5, target
        if kind == "scale":
            return -3.0 * inputs.flip(-1), target
        generator = self.generator(step + 4_000_000)
        if target.is_floating_point():  # measurements have become coarse
            return inputs, target + 1.5 * torch.randn(target.shape, generator=generator)
        # Every second label is of another, worse source.
        other = torch.randint(_classes_of(self), target.shape, generator=generator)
        return inputs, torch.where(torch.rand(target.shape, generator=generator) < 0.5, other, target)


class Told(Shifted):
    """The same, but somebody meant it and said so."""

    def before(self, step: int) -> None:
        """Before the forward."""
        if step == _change(self):
            self.agent.event(self.options.get("text", "strong augmentation on"), kind="augmentation")


class Augmented(Training):
    """Noise on the inputs from a step on, with an event: the loss jumps, and stays."""

    def before(self, step: int) -> None:
        """Before the forward."""
        if step == _change(self):
            self.agent.event("augmentation: noise on the inputs", kind="augmentation")

    def batch(self, step: int) -> Batch:
        """The samples of all ranks."""
        inputs, target = super().batch(step)
        if step < _change(self):
            return inputs, target
        noise = torch.randn(inputs.shape, generator=self.generator(step + 3_000_000))
        return inputs + self.options.get("noise", 3.0) * noise, target


class Noted(Evaluated):
    """Events that change nothing, long before the end."""

    def before(self, step: int) -> None:
        """Before the forward."""
        super().before(step)
        if step == 150:
            self.agent.event("moved to the new storage", kind="note")
        if step % 200 == 0:
            self.agent.event(f"checkpoint {step}", kind="checkpoint")


class Restarted(Training):
    """Two attempts: the second begins with the first one's checkpoint, less what was lost."""

    def before(self, step: int) -> None:
        """Before the forward."""
        if step == _change(self) - _REPEATED and not self.first_step:
            self.kept = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    def recordings(self) -> list[Recorded]:
        """Both attempts."""
        steps, name, kind = self.steps, self.run, self.options["kind"]
        self.steps = _change(self)
        fresh = copy.deepcopy(self.model.state_dict())
        found = [record(self)]
        weights, state = self.kept
        self.model = self.make_model()
        self.model.load_state_dict(fresh if kind == "weights" else weights)
        self.optimizer = self.make_optimizer(self.good_rate)
        if kind != "state":
            self.optimizer.load_state_dict(state)
        self.run = f"{name}-again"
        self.first_step, self.steps = self.steps - _REPEATED, steps
        return [*found, record(self)]


def _rows() -> list[Scenario]:
    rows: list[Scenario] = []

    def add(
        cause: str,
        words: str,
        make: type[Training],
        *arguments: Any,
        also: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        def build(seed: int) -> Training:
            return make(*arguments, seed=seed, **options)

        theme = cause or "healthy"
        rows.append(
            Scenario(f"{theme}/{'-'.join(arguments)}{'-' + words if words else ''}", cause, build, also)
        )

    # What a model cannot fit is noise to it: where most of the loss is gone, or little, is a convention.
    both = ("noise_floor",)
    add("capacity_limit", "narrow", Narrow, "classes", "sgd", steps=2000, rate=2.0, width=2, also=both)
    add("capacity_limit", "narrow", Narrow, "classes", "momentum", steps=1500, width=2, also=both)
    add("capacity_limit", "narrow", Narrow, "mlp", "adam", steps=1500, rate=4.0, also=both)
    add("capacity_limit", "narrow", Narrow, "cnn", "momentum", steps=2000, also=both)
    add(
        "capacity_limit", "narrow", Narrow, "mlp", "sgd", steps=1500, rate=2.0, ranks=4, samples=64, also=both
    )

    floor = ("capacity_limit",)
    # A loss that is all but gone goes on falling by shares of itself: nothing said is right as well.
    quiet = ("capacity_limit", "no verdict")
    add("noise_floor", "evaluated", Evaluated, "mlp", "momentum", steps=2500, sample_every=8, also=floor)
    add("noise_floor", "accurate", Evaluated, "cnn", "adamw", steps=2000, sample_every=8, also=quiet)
    add(
        "noise_floor",
        "accurate",
        Evaluated,
        "cnn",
        "momentum",
        steps=2000,
        sample_every=8,
        rate=4.0,
        also=quiet,
    )
    add("noise_floor", "accurate-cosine", Evaluated, "cnn", "adam", steps=1500, cosine=True, also=quiet)
    add("noise_floor", "cosine", Evaluated, "classes", "adamw", steps=2500, cosine=True, also=quiet)
    add("noise_floor", "cosine", Evaluated, "mlp", "sgd", steps=2500, cosine=True, also=quiet)
    add("noise_floor", "noted", Noted, "mlp", "momentum", steps=2500, sample_every=8, also=floor)
    add(
        "noise_floor",
        "groups",
        Grouped,
        "mlp",
        "momentum",
        steps=2500,
        sample_every=8,
        kind="harder",
        also=quiet,
    )
    add(
        "noise_floor",
        "restarted",
        Restarted,
        "mlp",
        "momentum",
        steps=2500,
        sample_every=8,
        kind="clean",
        also=quiet,
    )

    add("label_noise", "clean-evaluation", WrongLabels, "classes", "sgd", steps=2000, share=0.4)
    add("label_noise", "clean-evaluation", WrongLabels, "cnn", "sgd", steps=2000, share=0.3)
    add(
        "label_noise",
        "groups",
        WrongLabels,
        "cnn",
        "sgd",
        steps=2000,
        share=0.25,
        grouped=True,
    )
    add(
        "label_noise",
        "groups",
        WrongLabels,
        "classes",
        "sgd",
        steps=1500,
        share=0.25,
        grouped=True,
        samples=64,
    )

    add("group_stall", "spoiled", Grouped, "classes", "adamw", steps=1500, kind="spoiled", rate=2.0)
    add("group_stall", "spoiled", Grouped, "cnn", "sgd", steps=1500, kind="spoiled")
    add("group_stall", "spoiled", Grouped, "mlp", "momentum", steps=2500, sample_every=8, kind="spoiled")
    add("group_stall", "spoiled", Grouped, "classes", "momentum", steps=1500, kind="spoiled", share=0.1)

    add("component_stall", "detached", Composite, "mlp", "adamw", steps=1500, kind="detached")
    add("component_stall", "detached", Composite, "mlp", "sgd", steps=1500, kind="detached")
    # The penalty was switched on, and nobody said so: for the data's share of it, the loss jumped.
    add("component_stall", "alive", Composite, "classes", "adam", steps=1200, kind="alive")
    add("component_stall", "alive", Composite, "gpt", "adamw", steps=1200, kind="alive")

    add(
        "data_shortfall",
        "part",
        Cycled,
        "cnn",
        "adamw",
        steps=900,
        batches=12,
        attach_options={"dataset_size": 3200},
    )
    add(
        "data_shortfall",
        "part",
        Cycled,
        "mlp",
        "sgd",
        steps=900,
        batches=30,
        attach_options={"dataset_size": 3200},
    )
    add("data_shortfall", "ranks", Cycled, "classes", "momentum", steps=900, batches=20, ranks=4, attach_options={"dataset_size": 3200})  # fmt: skip

    statistics = {"input_statistics": True}
    add(
        "distribution_shift",
        "inputs",
        Shifted,
        "mlp",
        "adamw",
        steps=1000,
        kind="scale",
        attach_options=statistics,
    )
    add(
        "distribution_shift",
        "inputs",
        Shifted,
        "classes",
        "sgd",
        steps=1000,
        kind="scale",
        attach_options=statistics,
    )
    add("distribution_shift", "labels", Shifted, "mlp", "momentum", steps=1000, kind="labels")
    add("distribution_shift", "labels", Shifted, "cnn", "adam", steps=1000, kind="labels")
    add("distribution_shift", "labels", Shifted, "gpt", "adamw", steps=1000, kind="labels")

    add("restart_regression", "state", Restarted, "mlp", "adamw", steps=900, kind="state")
    add("restart_regression", "state", Restarted, "gpt", "adam", steps=900, kind="state")
    add("restart_regression", "weights", Restarted, "classes", "sgd", steps=900, kind="weights")
    add("restart_regression", "weights", Restarted, "cnn", "adamw", steps=900, kind="weights")

    add("user_change", "augmented", Augmented, "mlp", "adamw", steps=1000)
    add("user_change", "augmented", Augmented, "classes", "sgd", steps=1000)
    add("user_change", "augmented", Augmented, "cnn", "adam", steps=1000, noise=4.0)
    add("user_change", "told", Told, "mlp", "momentum", steps=1000, kind="labels", text="new targets")

    add(HEALTHY, "restarted", Restarted, "gpt", "adamw", steps=800, kind="clean")
    add(HEALTHY, "restarted", Restarted, "classes", "sgd", steps=800, kind="clean")
    add(HEALTHY, "harder-group", Grouped, "classes", "adamw", steps=600, kind="harder")
    add(HEALTHY, "two-terms", Composite, "mlp", "adamw", steps=600, kind="both")
    add(HEALTHY, "epochs", Cycled, "cnn", "sgd", steps=600, batches=40, attach_options={"dataset_size": 1280})
    add(HEALTHY, "noted", Noted, "lstm", "adamw", steps=600)
    add(HEALTHY, "statistics", Training, "cnn", "adamw", steps=600, attach_options=statistics)
    return rows


SCENARIOS = _rows()
