"""Observations of sampled steps: what costs a pass over gradients or parameters, aligned over ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.observations import Floats, Integers

Fingerprints = NDArray[np.uint64]


def _no_floats() -> Floats:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class SampledObservation:
    """The sampled records of one step over all ranks that sent one; arrays are indexed like `ranks`."""

    step: int
    attempt: int
    world_size: int
    ranks: tuple[int, ...]
    parallelism: Parallelism
    blocks: tuple[str, ...]
    """Names of the blocks that fingerprints are indexed by, the columns of the two arrays below."""
    gradient_fingerprints: Fingerprints
    """Of the gradients the optimizer saw, shape (ranks with some, blocks); see `gradient_ranks`."""
    gradient_ranks: tuple[int, ...]
    """The ranks that the rows of `gradient_fingerprints` belong to."""
    parameter_fingerprints: Fingerprints
    """Of the parameters after the step, shape (ranks with some, blocks); see `parameter_ranks`."""
    parameter_ranks: tuple[int, ...]
    local_gradient_square: Floats
    """Squared norm of this rank's gradient before it was averaged, shape (ranks,); NaN when unknown."""
    reduced_gradient_square: Floats
    update_square: Floats
    parameter_square: Floats
    samples: Floats
    """Samples behind each rank's gradient, shape (ranks,)."""
    optimizer_state_step: Integers
    buffer_fingerprint: Fingerprints
    """Of the buffers as the forward finds them, after DDP's broadcast; 0 without buffers or when not taken."""
    non_finite_blocks: tuple[tuple[int, ...], ...]
    """Per rank, the indices of the blocks whose gradient held a NaN or an infinity."""
    carried_gradient_square: Floats = field(default_factory=_no_floats)
    """Squared norm of what was in the gradients before the first backward; 0 when they had been cleared. This and what
    follows: shape (ranks,) or (ranks, ...), empty when no rank sends it."""
    produced_gradient_square: Floats = field(default_factory=_no_floats)
    """Squared norm of the averaged gradient before clipping and unscaling; NaN when unknown."""
    local_anchors: Floats = field(default_factory=_no_floats)
    """A slice of one gradient before it was averaged, of this step and those before it, newest first; shape
    (ranks, steps, elements), NaN where unknown."""
    produced_anchor: Floats = field(default_factory=_no_floats)
    """The same slice after averaging, of this step; shape (ranks, elements)."""
    gradient_squares: Floats = field(default_factory=_no_floats)
    """Squared norm of each block of the gradient that the optimizer saw; shape (ranks, blocks), NaN where a block has none."""
    parameter_squares: Floats = field(default_factory=_no_floats)
    update_squares: Floats = field(default_factory=_no_floats)
    unchanged_share: Floats = field(default_factory=_no_floats)
    """Share of the parameter elements with a gradient that the step left exactly as they were; NaN when not taken."""
    gradient_zero_shares: Floats = field(default_factory=_no_floats)
    """Share of each block's gradient elements that are exactly zero; shape (ranks, blocks). With data-parallel training one
    rank sends this, and what follows, for all: the rows of the others are NaN."""
    gradient_zero_row_shares: Floats = field(default_factory=_no_floats)
    """Share of the rows (units) of each block's gradient that are zero as a whole; NaN where a block has no rows."""
    weight_decay: float = math.nan
    """Of the optimizer's groups the largest, from the lowest rank that knows; NaN when unknown, -1 when there is none."""
    momentum: float = math.nan
    """Momentum, or beta1 of Adam and its kin; NaN when unknown, -1 when there is none."""
    decoupled_weight_decay: bool = False
    """Whether the decay acts beside the gradient (AdamW) rather than within it."""
    saturated_shares: Mapping[str, float] = field(default_factory=dict)
    """Mean over ranks of the share of saturated outputs, by module."""
    input_mean: Floats = field(default_factory=_no_floats)
    """Mean of each rank's first input; NaN unless asked for."""
    input_deviation: Floats = field(default_factory=_no_floats)

    def any_non_finite(self) -> frozenset[int]:
        """The blocks that held a NaN or an infinity on any rank: their bits say nothing about agreement."""
        return frozenset(block for blocks in self.non_finite_blocks for block in blocks)


@dataclass(frozen=True, slots=True)
class DirectionObservation:
    """Where the averaged gradient points at the step after a sampled one; means over the ranks that tell."""

    step: int
    attempt: int
    update_alignment: float
    """Cosine of the negative gradient and the update before it: above 0 the update could have gone further, below 0 it
    went too far."""
    gradient_agreement: float
    """Cosine of the gradient and the gradient before it."""
