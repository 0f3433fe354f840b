"""Faults of the optimisation, and healthy trainings that look like them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.diagnosis_scenarios.scenario import HEALTHY, Scenario
from support.in_process import Training, deep, make_optimizer

CUT = 200
"""The step at which most faults begin."""


def _at(training: Training, step: int) -> bool:
    """Whether the fault begins here; seeds move it."""
    return step == CUT + 7 * training.seed


class RateChange(Training):
    """The learning rate is multiplied at a step, or is off from the start."""

    def before(self, step: int) -> None:
        """Before the forward."""
        if _at(self, step) and "factor" in self.options:
            self.rate *= self.options["factor"]


class Squashed(Training):
    """A deep stack of sigmoids with small weights: what reaches the first layers is next to nothing."""

    def make_model(self) -> nn.Module:
        """The model."""
        model = deep(self.options.get("layers", 10), 32, self.options.get("activation", nn.Sigmoid))
        gain = self.options.get("gain", 0.3)
        with torch.no_grad():
            for each in model.modules():
                if isinstance(each, nn.Linear):
                    each.weight.mul_(gain)
        return model


class Clipped(Training):
    """Clipping by a norm that is a small share of what gradients have."""

    def between(self, step: int) -> bool:
        """Between backward and step."""
        if step >= self.options.get("from_step", CUT) + 7 * self.seed:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options["norm"])
        return True


class Half(Training):
    """Forward and backward in half precision, with a loss scale as given; 1 where the scaler was forgotten."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scale = self.options.get("scale", 1.0)
        self.shrink = self.options.get("shrink", 1.0)

    def losses(self, model: nn.Module, batch: Any, step: int) -> torch.Tensor:
        """The loss of each sample."""
        with torch.autocast("cpu", dtype=torch.float16):
            output = model(batch[0])
        return self.task.losses(output.float(), batch[1])

    def objective(self, losses: torch.Tensor, step: int) -> torch.Tensor:
        """What is differentiated."""
        factor = self.shrink if step >= self.options.get("from_step", CUT) + 7 * self.seed else 1.0
        return losses.mean() * (self.scale * factor)

    def between(self, step: int) -> bool:
        """Between backward and step."""
        if self.scale != 1.0:
            for each in self.gradients:
                each.div_(self.scale)
        return True


class Scaler(Training):
    """A gradient scaler by hand: some backward passes give infinities, whose steps are skipped."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scale = 2.0**16
        self.good = 0

    def objective(self, losses: torch.Tensor, step: int) -> torch.Tensor:
        """What is differentiated."""
        return losses.mean() * self.scale

    def between(self, step: int) -> bool:
        """Between backward and step."""
        draw = float(torch.rand((), generator=self.generator(step)))
        bad = step >= CUT + 7 * self.seed and draw < self.options["share"]
        if bad or step % 500 == 499:  # any scaler tries its luck once in a while
            self.scale = max(self.scale / 2, 2.0**-4)
            self.good = 0
            return False
        for each in self.gradients:
            each.div_(self.scale)
        self.good += 1
        if self.good >= self.options.get("growth", 8):
            self.scale, self.good = min(self.scale * 2, 2.0**20), 0
        return True


class Spiked(Training):
    """A few gradients are larger by orders; Adam's second moments remember them."""

    def between(self, step: int) -> bool:
        """Between backward and step."""
        if CUT + 7 * self.seed <= step < CUT + 7 * self.seed + 12:
            for each in self.gradients:
                each.mul_(self.options.get("spike", 1e4))
        return True

    def make_optimizer(self, rate: float) -> torch.optim.Optimizer:
        """The optimizer."""
        betas = (0.9, self.options.get("beta2", 0.999))
        return make_optimizer(self.optimizer_name, self.model.parameters(), rate, betas=betas)


class Frozen(Training):
    """Most of the model stops being trained."""

    def before(self, step: int) -> None:
        """Before the forward."""
        if not _at(self, step):
            return
        layers = list(self.model.parameters())
        for each in layers[: int(self.options.get("share", 0.9) * len(layers))]:
            if self.options.get("how", "flag") == "flag":
                each.requires_grad_(requires_grad=False)
            else:
                each.register_hook(torch.zeros_like)


class FrozenBefore(Training):
    """Frozen on purpose before anything began, as in fine-tuning."""

    def make_model(self) -> nn.Module:
        """The model."""
        model = super().make_model()
        layers = list(model.parameters())
        for each in layers[: len(layers) // 2]:
            each.requires_grad_(requires_grad=False)
        return model

    def make_optimizer(self, rate: float) -> torch.optim.Optimizer:
        """The optimizer."""
        trained = [each for each in self.model.parameters() if each.requires_grad]
        return make_optimizer(self.optimizer_name, trained, rate)


class Dead(Training):
    """Units of a ReLU network that never fire: they are pushed below zero, at a step."""

    def make_model(self) -> nn.Module:
        """The model."""
        return deep(self.options.get("layers", 3), 48)

    def before(self, step: int) -> None:
        """Before the forward."""
        if _at(self, step):
            hidden = [each for each in self.model.modules() if isinstance(each, nn.Linear)][:-1]
            with torch.no_grad():
                for index, each in enumerate(hidden):
                    dead = int(self.options.get("share", 0.95) * len(each.bias))
                    # Inputs of all layers but the first are never negative.
                    each.weight[:dead] = (
                        0.02 * each.weight[:dead] if index == 0 else -each.weight[:dead].abs()
                    )
                    each.bias[:dead] = -1.0


class Saturated(Training):
    """Weights so large that every tanh is at its limits, from a step on."""

    def before(self, step: int) -> None:
        """Before the forward."""
        if _at(self, step):
            with torch.no_grad():
                linear = [each for each in self.model.modules() if isinstance(each, nn.Linear)]
                for each in linear[:-1]:
                    each.weight.mul_(self.options.get("factor", 30.0))


class Decayed(Training):
    """Weight decay as given, from the start or from a step on."""

    def make_optimizer(self, rate: float) -> torch.optim.Optimizer:
        """The optimizer."""
        decay = 0.0 if self.options.get("late") else self.options["decay"]
        return make_optimizer(self.optimizer_name, self.model.parameters(), rate, weight_decay=decay)

    def before(self, step: int) -> None:
        """Before the forward."""
        if self.options.get("late") and _at(self, step):
            for group in self.optimizer.param_groups:
                group["weight_decay"] = self.options["decay"]


class Exploding(Training):
    """Weights that grow a little at every step, from a step on: in a deep stack, gradients grow by orders."""

    def before(self, step: int) -> None:
        """Before the forward."""
        if 0 <= step - CUT - 7 * self.seed < self.options.get("growing", 80):
            with torch.no_grad():
                for each in self.model.parameters():
                    if each.dim() >= 2:
                        each.mul_(self.options.get("growth", 1.004))

    def make_model(self) -> nn.Module:
        """The model."""
        layers = self.options.get("layers")
        return deep(layers, 32) if layers else super().make_model()


class Outbursts(Training):
    """Every few steps a gradient is larger by orders, and nobody clips it."""

    def objective(self, losses: torch.Tensor, step: int) -> torch.Tensor:
        """What is differentiated."""
        draw = float(torch.rand((), generator=self.generator(step)))
        wild = step >= CUT + 7 * self.seed and draw < 0.2
        return losses.mean() * (self.options["times"] if wild else 1.0)


class Cosine(Training):
    """The usual warm-up and cosine decay to nothing at the planned end: the last part is flat, and nothing is wrong."""

    def before(self, step: int) -> None:
        """Before the forward."""
        share = step / self.steps
        warm = min(1.0, (step + 1) / 50)
        self.rate = self.good_rate * max(
            warm * 0.5 * (1 + float(torch.cos(torch.tensor(3.14159 * share)))), 1e-6
        )


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

    for task, optimizer in (
        ("gpt", "adamw"), ("classes", "sgd"), ("cnn", "momentum"), ("deep", "adam"), ("lstm", "momentum"), ("mlp", "adamw"),
    ):  # fmt: skip
        add("lr_too_low", "cut", RateChange, task, optimizer, steps=1000, factor=1e-3)
    add("lr_too_low", "start", RateChange, "classes", "momentum", steps=1500, rate=1e-5)
    add("lr_too_low", "start", RateChange, "gpt", "adam", steps=1200, rate=1e-4)
    add("lr_too_low", "ranks", RateChange, "classes", "adamw", steps=1000, factor=1e-3, ranks=4)

    add("lr_too_high", "jump", RateChange, "classes", "sgd", steps=1800, factor=7.0)
    add("lr_too_high", "jump", RateChange, "gpt", "adamw", steps=1800, factor=30.0)
    add("lr_too_high", "jump", RateChange, "mlp", "adam", steps=1800, factor=60.0)
    add("lr_too_high", "jump", RateChange, "mlp", "sgd", steps=1500, factor=25.0)
    add("lr_too_high", "start", RateChange, "lstm", "adam", steps=1800, rate=60.0)
    add("lr_too_high", "start", RateChange, "mlp", "momentum", steps=1500, rate=30.0)
    add("lr_too_high", "ranks", RateChange, "mlp", "adamw", steps=1800, factor=60.0, ranks=4)

    add("vanishing_gradients", "", Squashed, "classes", "sgd", steps=1600, gain=1.0)
    add("vanishing_gradients", "", Squashed, "classes", "momentum", steps=1600, gain=0.6)
    add(
        "vanishing_gradients",
        "tanh",
        Squashed,
        "classes",
        "momentum",
        steps=1600,
        gain=0.12,
        activation=nn.Tanh,
        layers=14,
    )
    add(
        "vanishing_gradients",
        "relu",
        Squashed,
        "deep",
        "sgd",
        steps=1600,
        gain=0.2,
        activation=nn.ReLU,
        layers=12,
    )

    # What dies of it stays dead, and is as true a reason why the loss does not come back.
    killed = ("dead_units",)
    add(
        "exploding_gradients",
        "grow",
        Exploding,
        "classes",
        "adam",
        steps=460,
        layers=10,
        growth=1.006,
        growing=1000,
        also=killed,
    )
    add("exploding_gradients", "tail", Outbursts, "classes", "sgd", steps=1800, times=40.0, rate=0.3)
    add("exploding_gradients", "tail", Outbursts, "lstm", "sgd", steps=1800, times=200.0, rate=0.2)
    add("exploding_gradients", "tail", Outbursts, "mlp", "momentum", steps=1800, times=60.0, rate=0.5)

    add("clipping_saturated", "", Clipped, "classes", "sgd", steps=1800, norm=2e-3)
    add("clipping_saturated", "", Clipped, "cnn", "momentum", steps=1000, norm=2e-3)
    add("clipping_saturated", "start", Clipped, "gpt", "momentum", steps=1000, norm=1e-3, from_step=0)
    add("clipping_saturated", "", Clipped, "lstm", "sgd", steps=1000, norm=1e-3)

    add("amp_underflow", "", Half, "classes", "adamw", steps=1600, shrink=3e-6)
    add("amp_underflow", "", Half, "cnn", "adam", steps=1600, shrink=1e-6)
    add("amp_underflow", "", Half, "gpt", "adamw", steps=1600, shrink=1e-6)

    add("amp_overflow", "", Scaler, "classes", "adamw", steps=1200, share=0.5)
    add("amp_overflow", "", Scaler, "gpt", "momentum", steps=1200, share=0.7)
    add("amp_overflow", "", Scaler, "cnn", "sgd", steps=1200, share=0.9)

    add("optimizer_starved", "", Spiked, "deep_tanh", "adam", steps=1800, spike=1e5)
    add("optimizer_starved", "", Spiked, "gpt", "adamw", steps=1000, spike=1e5, beta2=0.9999)
    add("optimizer_starved", "", Spiked, "mlp", "adamw", steps=1000, spike=1e5)
    add("optimizer_starved", "ranks", Spiked, "lstm", "adamw", steps=1000, spike=1e4, ranks=2, beta2=0.9999)

    add("frozen_parameters", "flag", Frozen, "gpt", "adamw", steps=1000, share=0.95)
    add("frozen_parameters", "zeros", Frozen, "classes", "sgd", steps=1000, share=0.8, how="hook")
    add("frozen_parameters", "zeros", Frozen, "cnn", "adamw", steps=1000, share=0.8, how="hook")
    add("frozen_parameters", "flag", Frozen, "lstm", "momentum", steps=1000, share=0.9)

    add("dead_units", "", Dead, "classes", "adamw", steps=1000)
    add("dead_units", "", Dead, "classes", "momentum", steps=1000, share=0.98)
    add("dead_units", "tanh", Saturated, "mlp", "adamw", steps=1800, factor=60.0)
    add("dead_units", "tanh", Saturated, "deep_tanh", "momentum", steps=1000, factor=20.0)

    add("over_regularized", "", Decayed, "classes", "adamw", steps=1000, decay=30.0)
    add("over_regularized", "", Decayed, "gpt", "adamw", steps=1000, decay=30.0, late=True)
    add("over_regularized", "", Decayed, "classes", "sgd", steps=1000, decay=0.1, late=True)
    add("over_regularized", "", Decayed, "mlp", "adam", steps=1800, decay=0.3)
    add("over_regularized", "", Decayed, "cnn", "momentum", steps=1000, decay=0.3, late=True)

    # At a tiny batch, too long a step and too much noise are the same thing.
    both = ("lr_too_high",)
    add("batch_too_small", "", Training, "mlp", "sgd", steps=2500, samples=1, rate=2.0, also=both)
    add("batch_too_small", "", Training, "mlp", "adamw", steps=2500, samples=1, rate=5.0, also=both)
    add(
        "batch_too_small",
        "ranks",
        Training,
        "mlp",
        "momentum",
        steps=2500,
        samples=2,
        ranks=2,
        rate=3.0,
        also=both,
    )
    add(
        "batch_too_small",
        "ranks",
        Training,
        "lstm",
        "adam",
        steps=2500,
        samples=2,
        ranks=2,
        rate=4.0,
        also=both,
    )

    for task, optimizer in (
        ("gpt", "adamw"), ("classes", "sgd"), ("cnn", "momentum"), ("deep", "adam"), ("lstm", "sgd"), ("mlp", "adamw"),
        ("deep_tanh", "momentum"),
    ):  # fmt: skip
        add(HEALTHY, "", Training, task, optimizer, steps=600)
    add(HEALTHY, "clipped", Clipped, "gpt", "adamw", steps=600, norm=0.25, from_step=0)
    add(HEALTHY, "frozen-before", FrozenBefore, "cnn", "adamw", steps=600)
    add(HEALTHY, "scaler", Scaler, "classes", "adamw", steps=600, share=0.0, growth=100)
    add(HEALTHY, "half", Half, "gpt", "adamw", steps=600, scale=1024.0)
    add(HEALTHY, "dead-third", Dead, "classes", "adamw", steps=600, share=0.3)
    add(HEALTHY, "cosine", Cosine, "gpt", "adamw", steps=1200, attach_options={"total_steps": 1200})
    add(HEALTHY, "cosine", Cosine, "classes", "momentum", steps=1200)

    # Converged: what is left is noise. While it falls by shares of itself, as in data.py, nothing said is right as well.
    also = ("capacity_limit", "no verdict")
    for task, optimizer in (("mlp", "adamw"), ("mlp", "sgd"), ("mlp", "adam")):
        add("noise_floor", "end", Training, task, optimizer, steps=4000, sample_every=16, also=also)
    add(
        "noise_floor",
        "ranks",
        Training,
        "mlp",
        "momentum",
        steps=4000,
        sample_every=16,
        ranks=4,
        also=also,
    )
    add("noise_floor", "cosine", Cosine, "mlp", "adam", steps=3000, sample_every=8, also=("capacity_limit",))
    return rows


SCENARIOS = _rows()
