"""SageMaker Debugger's rules about tensors, on the sampled steps; one block of parameters stands for one tensor.

The agent sends norms, not tensors. A mean of absolute values is taken as that of a normal distribution of the same norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.observations import RunDeclaration
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.rules.contract import RuleHit

_MEAN_OF_ABSOLUTE = math.sqrt(2 / math.pi)


def first_row(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The row of the first rank that tells; empty when none does."""
    if matrix.ndim != 2:
        return np.zeros(0)
    known = np.flatnonzero(np.isfinite(matrix).any(axis=1))
    return np.asarray(matrix[known[0]]) if known.size else np.zeros(0)


def named(sample: SampledObservation, where: NDArray[np.bool_]) -> str:
    """The first blocks at which something holds."""
    names = [sample.blocks[index] for index in np.flatnonzero(where)[:3]]
    more = int(where.sum()) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


@dataclass(slots=True)
class VanishingGradient:
    """The mean of a gradient's absolute values is below `threshold`."""

    name: ClassVar[str] = "VanishingGradient"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation, RunDeclaration)

    threshold: float = 1e-7
    elements: tuple[int, ...] = ()

    def update(self, observation: object) -> RuleHit | None:
        """Take one sample."""
        if isinstance(observation, RunDeclaration):
            self.elements = observation.block_elements
        if not isinstance(observation, SampledObservation):
            return None
        squares = first_row(observation.gradient_squares)
        if not squares.size or squares.size != len(self.elements):
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = _MEAN_OF_ABSOLUTE * np.sqrt(squares / np.array(self.elements, np.float64))
        low = mean < self.threshold
        return (
            RuleHit(observation.step, f"tiny gradients in {named(observation, low)}") if low.any() else None
        )


@dataclass(slots=True)
class ExplodingTensor:
    """A gradient holds a NaN or an infinity."""

    name: ClassVar[str] = "ExplodingTensor"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation,)

    only_nan: bool = False

    def update(self, observation: object) -> RuleHit | None:
        """Take one sample."""
        if isinstance(observation, SampledObservation):
            blocks = sorted(observation.any_non_finite())
            if blocks:
                return RuleHit(observation.step, f"no numbers in {observation.blocks[blocks[0]]}")
        return None


@dataclass(slots=True)
class WeightUpdateRatio:
    """Update over weight of a block is above `large_threshold` or below `small_threshold`."""

    name: ClassVar[str] = "WeightUpdateRatio"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation,)

    large_threshold: float = 10.0
    small_threshold: float = 1e-8
    epsilon: float = 1e-9

    def update(self, observation: object) -> RuleHit | None:
        """Take one sample."""
        if not isinstance(observation, SampledObservation):
            return None
        update, weight = first_row(observation.update_squares), first_row(observation.parameter_squares)
        if not update.size or update.size != weight.size:
            return None
        ratio = np.sqrt(update) / (np.sqrt(weight) + self.epsilon)
        out = (ratio > self.large_threshold) | (ratio < self.small_threshold)
        return RuleHit(observation.step, f"update ratio of {named(observation, out)}") if out.any() else None


@dataclass(slots=True)
class UnchangedTensor:
    """A block has not changed over `num_steps` samples: `numpy.allclose` with the tolerances below."""

    name: ClassVar[str] = "UnchangedTensor"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation,)

    num_steps: int = 3
    rtol: float = 1e-5
    still: list[int] = field(default_factory=list)

    def update(self, observation: object) -> RuleHit | None:
        """Take one sample."""
        if not isinstance(observation, SampledObservation):
            return None
        update, weight = first_row(observation.update_squares), first_row(observation.parameter_squares)
        if not update.size or update.size != weight.size:
            return None
        if len(self.still) != update.size:
            self.still = [0] * update.size
        close = np.sqrt(update) <= self.rtol * np.sqrt(weight)
        self.still = [
            count + 1 if near else 0 for count, near in zip(self.still, close.tolist(), strict=True)
        ]
        unchanged = np.array(self.still) >= self.num_steps
        return (
            RuleHit(observation.step, f"unchanged: {named(observation, unchanged)}")
            if unchanged.any()
            else None
        )


@dataclass(slots=True)
class AllZero:
    """`threshold` percent of a gradient's elements are zero."""

    name: ClassVar[str] = "AllZero"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation,)

    threshold: float = 100.0

    def update(self, observation: object) -> RuleHit | None:
        """Take one sample."""
        if not isinstance(observation, SampledObservation):
            return None
        shares = first_row(observation.gradient_zero_shares)
        zero = 100 * shares >= self.threshold
        return RuleHit(observation.step, f"all zero: {named(observation, zero)}") if zero.any() else None


@dataclass(slots=True)
class DeadRelu:
    """More than `threshold_layer` percent of a layer's units are inactive, judged by units without any gradient."""

    name: ClassVar[str] = "DeadRelu"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation,)

    threshold_layer: float = 50.0

    def update(self, observation: object) -> RuleHit | None:
        """Take one sample."""
        if not isinstance(observation, SampledObservation):
            return None
        dead = 100 * first_row(observation.gradient_zero_row_shares) > self.threshold_layer
        return (
            RuleHit(observation.step, f"inactive units in {named(observation, dead)}") if dead.any() else None
        )


@dataclass(slots=True)
class SaturatedActivation:
    """More than `threshold_layer` percent of the outputs of a tanh or sigmoid are at their limits."""

    name: ClassVar[str] = "SaturatedActivation"
    consumes: ClassVar[tuple[type, ...]] = (SampledObservation,)

    threshold_layer: float = 50.0

    def update(self, observation: object) -> RuleHit | None:
        """Take one sample."""
        if isinstance(observation, SampledObservation):
            for module, share in observation.saturated_shares.items():
                if 100 * share > self.threshold_layer:
                    return RuleHit(observation.step, f"{100 * share:.3g} % of {module} saturated")
        return None
