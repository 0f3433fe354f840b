"""Runs that are compared with each other: who belongs to a family, and what one run tells the others of itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_NUMBERED = re.compile(
    r"[-_.:/](?:(?:seed|s|run|r|trial|t|rep|fold|try|lr|bs|wd)[-_=]?)?\d[\d.]*(?:e[-+]?\d+)?\Z", re.IGNORECASE
)
"""The last part of a name, where it only numbers the run or tells one of its settings. `vit-b16` and `resnet50` name models."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of another run of the family. Numbers that are not known are NaN, names are empty."""

    run: str
    flat: bool = False
    """Whether it is, or ended, on a plateau."""
    since_step: int = -1
    """Where the plateau began; -1 when it is on none."""
    level: float = math.nan
    """Its smoothed loss."""
    noise: float = math.nan
    """Standard deviation of its single losses."""
    learning_rate: float = math.nan
    peak_learning_rate: float = math.nan
    effective_batch: float = math.nan
    world_size: int = 0
    optimizer: str = ""
    model: str = ""
    parameters: int = 0


def stem(run: str) -> str:
    """A run's name without the parts at its end that only number it.

    >>> [stem(name) for name in ("resnet-s1", "resnet-lr0.1-seed_2", "gpt/run-3", "resnet50", "2024-01")]
    ['resnet', 'resnet', 'gpt', 'resnet50', '2024']
    """
    name = run
    while (shorter := _NUMBERED.sub("", name)) and shorter != name:
        name = shorter
    return name


def family_of(run: str, group: str) -> tuple[str, str]:
    """What runs of one family share: the group they declare, or else what their names have in common.

    >>> family_of("a-1", "sweep") == family_of("b-7", "sweep"), family_of("a-1", "") == family_of("a-2", "")
    (True, True)
    """
    return ("group", group) if group else ("name", stem(run))
