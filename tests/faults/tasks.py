"""What the jobs train: small models of four families, and data for them that keeps them learning."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stallwatch.agent.demo._data import corpus
from stallwatch.agent.demo._model import CharacterGPT

Batch = tuple[torch.Tensor, torch.Tensor]


class Task:
    """A model, batches for it, and a loss."""

    samples = 16
    learning_rate = {"adamw": 1e-3, "sgd": 0.02}  # noqa: RUF012 - read only
    regression = False

    def model(self) -> nn.Module:
        """A new model; its weights come from torch's global random numbers."""
        raise NotImplementedError

    def batch(self, generator: torch.Generator, samples: int) -> Batch:
        """Random samples: inputs and targets."""
        raise NotImplementedError

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean over the samples."""
        return functional.cross_entropy(output.flatten(0, -2), target.flatten())


@cache
def _teacher() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4711)
        return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 4)).requires_grad_(False)


class Perceptron(Task):
    """Regression on what another network says, with noise."""

    regression = True

    def model(self) -> nn.Module:
        """Three linear layers."""
        return nn.Sequential(
            nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 4)
        )  # 3.4 k parameters

    def batch(self, generator: torch.Generator, samples: int) -> Batch:
        """Normal inputs."""
        inputs = torch.randn(samples, 16, generator=generator)
        noise = torch.randn(samples, 4, generator=generator)
        return inputs, 3 * _teacher()(inputs) + 0.3 * noise

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared error."""
        return functional.mse_loss(output, target)


@cache
def _digits() -> Batch:
    """Images of 8 x 8 and their classes: scikit-learn's digits where it is installed, else blurred prototypes."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-not-found]
    except ImportError:
        generator = torch.Generator().manual_seed(815)
        classes = torch.randint(10, (1800,), generator=generator)
        prototypes = torch.randn(10, 1, 8, 8, generator=generator)
        return prototypes[classes] + 1.5 * torch.randn(1800, 1, 8, 8, generator=generator), classes
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return images, torch.tensor(found.target, dtype=torch.long)


class Convolution(Task):
    """Classifies small images; has buffers (batch normalisation)."""

    def model(self) -> nn.Module:
        """Two convolutions and a linear layer."""
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    def batch(self, generator: torch.Generator, samples: int) -> Batch:
        """Images, drawn with replacement."""
        images, classes = _digits()
        chosen = torch.randint(len(images), (samples,), generator=generator)
        return images[chosen], classes[chosen]


@cache
def _text() -> tuple[torch.Tensor, int]:
    return corpus()


class _Text(Task):
    samples = 4
    context = 16

    def batch(self, generator: torch.Generator, samples: int) -> Batch:
        """Windows of Python's own manual, and the characters that follow."""
        text, _ = _text()
        starts = torch.randint(len(text) - self.context - 1, (samples,), generator=generator)
        windows = torch.stack([text[start : start + self.context + 1] for start in starts])
        return windows[:, :-1], windows[:, 1:]


class Transformer(_Text):
    """The demo's character GPT, smaller."""

    def model(self) -> nn.Module:
        """Two blocks of width 32."""
        return CharacterGPT(_text()[1], self.context, width=32, layers=2, heads=2)


class _Recurrent(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, 16)
        self.memory = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, vocabulary)

    def forward(self, characters: torch.Tensor) -> Any:
        return self.head(self.memory(self.characters(characters))[0])


class Bigrams(nn.Module):
    """Knows one character at a time, in so many numbers: too small for any text."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, characters: torch.Tensor) -> Any:
        """Scores of the next character."""
        return self.head(self.embedding(characters))


class Recurrence(_Text):
    """A character LSTM."""

    def model(self) -> nn.Module:
        """One layer of 32 cells."""
        return _Recurrent(_text()[1])


TASKS: dict[str, Task] = {
    "mlp": Perceptron(),
    "cnn": Convolution(),
    "gpt": Transformer(),
    "lstm": Recurrence(),
}


def make_optimizer(name: str, parameters: Any, learning_rate: float) -> torch.optim.Optimizer:
    """An optimizer by its name here."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate)
    raise ValueError(f"there is no optimizer {name!r} here")


class Branching(nn.Module):
    """A task's model with a side branch on the way out, which may be left out."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.main = TASKS[task].model()
        width = [each for each in self.main.modules() if isinstance(each, nn.Linear)][-1].out_features
        self.side = nn.Linear(width, width)
        self.branch = True

    def forward(self, inputs: torch.Tensor) -> Any:
        """Map inputs to the task's output."""
        output = self.main(inputs)
        return output + 0.1 * self.side(output) if self.branch else output
