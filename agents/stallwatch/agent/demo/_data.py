"""Real text that is on any machine with Python: the language reference that `help()` reads."""

from __future__ import annotations

from collections.abc import Iterator
from pydoc_data.topics import topics

import torch


def corpus() -> tuple[torch.Tensor, int]:
    """The text as numbers, shape (characters,), and how many different characters it has."""
    text = "\n".join(topics[name] for name in sorted(topics))
    alphabet = sorted(set(text))
    number = {character: index for index, character in enumerate(alphabet)}
    return torch.tensor([number[character] for character in text], dtype=torch.long), len(alphabet)


def batches(
    text: torch.Tensor, *, batch: int, context: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless random windows: inputs and next characters, each of shape (batch, context)."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - context - 1, (batch,), generator=generator)
        windows = torch.stack([text[start : start + context + 1] for start in starts])
        yield windows[:, :-1], windows[:, 1:]
