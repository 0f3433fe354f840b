"""Exact zeros in gradients: units that are dead leave whole rows of them, underflow leaves them everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stallwatch.agent._fingerprint import local_part

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


def count_zeros(gradients: Sequence[Tensor], by_row: Sequence[bool]) -> Tensor:
    """Zero elements and zero rows of each gradient, shape (gradients, 2); rows are -1 where they mean nothing."""
    import torch

    counts = []
    for gradient, rows in zip(gradients, by_row, strict=True):
        part = local_part(gradient)
        if rows and part.dim() >= 2:
            # Row by row, for the sum over them is the sum over all.
            filled = torch.count_nonzero(part.flatten(1), dim=1)
            counts.append(torch.stack([part.numel() - filled.sum(), (filled == 0).sum()]))
        else:
            zeros = part.numel() - torch.count_nonzero(part)
            counts.append(torch.stack([zeros, torch.full_like(zeros, -1)]))
    first = counts[0].device
    return torch.stack([each.to(first, non_blocking=True) for each in counts])
