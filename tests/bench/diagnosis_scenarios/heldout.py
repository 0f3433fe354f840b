"""Other tasks, optimizers and sizes than any cause was written with: how far what is said holds elsewhere.

Nothing in `stallwatch.detector` is to be fitted to these; where one goes wrong, it stays as it is until there is a reason that
has nothing to do with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.diagnosis_scenarios import data, optimization
from bench.diagnosis_scenarios.scenario import HEALTHY, Scenario
from faults.tasks import TASKS as FAULT_TASKS
from support.in_process import TASKS, Batch, Task, Training, clusters, entropies, squares


class Residual(nn.Module):
    """Six residual blocks with normalisation and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = nn.Linear(16, 40)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(40), nn.Linear(40, 80), nn.GELU(), nn.Linear(80, 40)) for _ in range(6)
        )
        self.head = nn.Linear(40, 10)

    def forward(self, inputs: torch.Tensor) -> Any:
        """Scores of the classes."""
        hidden = self.begin(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def autoencoder() -> nn.Module:
    """Eight by eight pixels through twelve numbers and back."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.ELU(),
        nn.Linear(64, 12),
        nn.Linear(12, 64),
        nn.ELU(),
        nn.Linear(64, 64),
    )


def pictures(generator: torch.Generator, samples: int) -> Batch:
    """Images, and the same as targets."""
    images, _ = FAULT_TASKS["cnn"].batch(generator, samples)
    return images, images.flatten(1)


class Tagger(nn.Module):
    """A bidirectional GRU that says the next character but one."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, 24)
        self.memory = nn.GRU(24, 40, num_layers=2, batch_first=True)
        self.head = nn.Linear(40, vocabulary)

    def forward(self, characters: torch.Tensor) -> Any:
        """Scores of the characters."""
        return self.head(self.memory(self.characters(characters))[0])


def tagger() -> nn.Module:
    """The model for the text of the other tasks."""
    vocabulary = [each for each in FAULT_TASKS["lstm"].model().modules() if isinstance(each, nn.Linear)][-1]
    return Tagger(vocabulary.out_features)


NEW = {
    "residual": Task(Residual, clusters, entropies, {"sgd": 0.05, "momentum": 0.01, "adam": 1e-3, "adamw": 1e-3}, 48),
    "pictures": Task(autoencoder, pictures, squares, {"sgd": 0.3, "momentum": 0.05, "adam": 2e-3, "adamw": 2e-3}, 24),
    "gru": Task(tagger, FAULT_TASKS["lstm"].batch, entropies, {"sgd": 1.0, "momentum": 0.1, "adam": 3e-3, "adamw": 3e-3}, 12),
}  # fmt: skip
TASKS.update(NEW)


def _rows() -> list[Scenario]:
    rows: list[Scenario] = []

    def add(
        cause: str,
        make: type[Training],
        task: str,
        optimizer: str,
        also: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        def build(seed: int) -> Training:
            return make(task, optimizer, seed=seed, **options)

        theme = cause or "healthy"
        rows.append(Scenario(f"heldout-{theme}/{task}-{optimizer}", cause, build, also))

    one, two = optimization, data
    add("lr_too_low", one.RateChange, "residual", "adamw", steps=1200, factor=1e-3)
    add("lr_too_low", one.RateChange, "pictures", "momentum", steps=1200, factor=1e-3, ranks=8)
    add("lr_too_low", one.RateChange, "gru", "adam", steps=1200, factor=2e-3)
    add("lr_too_high", one.RateChange, "residual", "momentum", steps=1600, factor=60.0)
    add("lr_too_high", one.RateChange, "pictures", "adam", steps=1600, factor=60.0, ranks=2)
    add("lr_too_high", one.RateChange, "gru", "adamw", steps=1600, factor=40.0)
    add("clipping_saturated", one.Clipped, "residual", "momentum", steps=1200, norm=2e-3)
    add("clipping_saturated", one.Clipped, "gru", "sgd", steps=1200, norm=1e-3, ranks=2)
    add("amp_underflow", one.Half, "residual", "adamw", steps=1200, shrink=1e-6)
    add("amp_underflow", one.Half, "pictures", "adam", steps=1200, shrink=1e-6)
    add("amp_overflow", one.Scaler, "pictures", "adamw", steps=1200, share=0.6)
    add("amp_overflow", one.Scaler, "gru", "momentum", steps=1200, share=0.6)
    add("optimizer_starved", one.Spiked, "residual", "adamw", steps=1200, spike=1e5, beta2=0.9999)
    add("optimizer_starved", one.Spiked, "gru", "adam", steps=1200, spike=1e5, beta2=0.9999)
    add("frozen_parameters", one.Frozen, "residual", "adamw", steps=1200, share=0.9)
    add("frozen_parameters", one.Frozen, "gru", "adam", steps=1200, share=0.8, how="hook")
    add("over_regularized", one.Decayed, "residual", "adamw", steps=1200, decay=30.0, late=True)
    add("over_regularized", one.Decayed, "pictures", "momentum", steps=1200, decay=0.3, late=True)
    add(
        "exploding_gradients",
        one.Outbursts,
        "gru",
        "sgd",
        steps=1600,
        times=200.0,
        rate=0.2,
        also=("dead_units",),
    )
    add(
        "exploding_gradients",
        one.Outbursts,
        "pictures",
        "momentum",
        steps=1600,
        times=100.0,
        rate=0.5,
        also=("dead_units",),
    )
    add("label_noise", two.WrongLabels, "residual", "adamw", steps=2000, share=0.25, grouped=True, samples=64)
    add("label_noise", two.WrongLabels, "residual", "momentum", steps=2000, share=0.4)
    add("group_stall", two.Grouped, "residual", "adam", steps=1600, kind="spoiled")
    add("group_stall", two.Grouped, "pictures", "adamw", steps=1600, kind="spoiled", also=("noise_floor",))
    add(
        "data_shortfall",
        two.Cycled,
        "pictures",
        "adam",
        steps=900,
        batches=15,
        attach_options={"dataset_size": 2400},
    )
    add(
        "data_shortfall",
        two.Cycled,
        "residual",
        "momentum",
        steps=900,
        batches=12,
        ranks=2,
        attach_options={"dataset_size": 4800},
    )
    add("distribution_shift", two.Shifted, "residual", "adamw", steps=1000, kind="labels")
    add("distribution_shift", two.Shifted, "gru", "momentum", steps=1000, kind="labels")
    add("restart_regression", two.Restarted, "residual", "adam", steps=900, kind="state")
    add("restart_regression", two.Restarted, "gru", "adamw", steps=900, kind="weights")
    add("user_change", two.Augmented, "residual", "adamw", steps=1000)
    add("user_change", two.Augmented, "pictures", "momentum", steps=1000)
    quiet = ("capacity_limit", "noise_floor", "no verdict")
    add("noise_floor", two.Evaluated, "residual", "adamw", steps=2500, cosine=True, also=quiet)
    add("noise_floor", two.Evaluated, "pictures", "adam", steps=2500, sample_every=8, also=quiet)
    add("noise_floor", two.Evaluated, "gru", "adam", steps=2000, cosine=True, also=quiet)
    add(HEALTHY, Training, "residual", "momentum", steps=600)
    add(HEALTHY, Training, "pictures", "sgd", steps=600, ranks=4)
    add(HEALTHY, Training, "gru", "adamw", steps=600)
    return rows


SCENARIOS = _rows()
