"""What a scenario of the diagnosis benchmark is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from support.in_process import Training

HEALTHY = ""
"""The cause of a training that goes on learning: nothing of severity warning or above may be said of its causes."""


@dataclass(frozen=True)
class Scenario:
    """A training with a known cause."""

    name: str
    """CAUSE/TASK-OPTIMIZER-WORDS."""
    cause: str
    """The kind that has to come first; `HEALTHY` for a training that nothing is wrong with."""
    make: Callable[[int], Training]
    """From a seed, the training that is to be run."""
    also: tuple[str, ...] = ()
    """Kinds that are as true of it; each use says why."""
