"""What a series is measured by, and the smallest improvement of it that counts as learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stallwatch.detector.signals.loss_config import LossConfig


@dataclass(frozen=True, slots=True)
class Scale:
    """What a series is measured by."""

    first: float
    """Where it came from."""
    level: float
    noise: float
    """Standard deviation of one of its fitted points."""
    points: int
    """Points behind the whole series."""
    sparse: bool
    """Whether a point stands for several optimizer steps, so that few points are late evidence, not early."""
    positive: bool
    """Whether the curve lies above zero, so that a share of its level means something."""


def material_gain(scale: Scale, config: LossConfig) -> float:
    """The smallest improvement over the horizon that counts as learning."""
    size = abs(scale.level)
    progress = abs(scale.first - scale.level)
    extent = min(progress, size) if scale.positive else progress
    few = min(1.0, 2 * config.few_points / scale.points) if scale.sparse else 0.0
    share = max(config.trifle_share, config.level_share * few)
    unresolved = min(max(config.noise_share * scale.noise, config.trifle_share * size), share * size)
    # Few but precise points (epoch means) are judged at what they can resolve; noise is no licence for that.
    material = config.material_share * extent
    relaxed = material * (1 + config.few_points / scale.points)
    relaxed *= min(1.0, relaxed / max(scale.noise, 1e-300))
    return max(material, relaxed, unresolved, 1e-12 * abs(scale.level), 1e-90)
