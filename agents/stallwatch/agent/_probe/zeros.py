"""Exact zeros in gradients: units that are dead leave whole rows of them, underflow leaves them everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stallwatch.agent._fingerprint import gather

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor


def row_parameters(module: torch.nn.Module) -> frozenset[int]:
    """Ids of the parameters whose rows are units: matrices and kernels, but not embeddings, most of whose rows rest."""
    import torch

    embeddings = {
        id(parameter)
        for each in module.modules()
        if isinstance(each, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for parameter in each.parameters(recurse=False)
    }
    return frozenset(
        id(each) for each in module.parameters() if each.dim() >= 2 and id(each) not in embeddings
    )


def count_filled(gradients: Sequence[Tensor], by_row: Sequence[bool]) -> Tensor:
    """Elements and rows of each gradient that are not zero, shape (gradients, 2).

    Rows are -1 where they mean nothing. `gradients` are parts that this rank holds.
    """
    import torch

    elements, rows = [], []
    unknown: Tensor | None = None
    for part, has_rows in zip(gradients, by_row, strict=True):
        if has_rows:
            # Row by row, for the sum over them is the sum over all.
            filled = torch.count_nonzero(part.flatten(1), dim=1)
            elements.append(filled.sum())
            rows.append(torch.count_nonzero(filled))
        else:
            elements.append(torch.count_nonzero(part))
            if unknown is None:
                unknown = torch.full_like(elements[-1], -1)
            rows.append(unknown)
    return torch.stack([gather(elements), gather(rows)], dim=1)
