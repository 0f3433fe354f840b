"""Ten steps of the whole run at once: what its time goes into, for checks that look at all ranks together."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.core.observations import Floats

WINDOW_STEPS = 10
PARTS = ("input", "compute", "optimizer", "communication", "waiting")
"""What a step consists of: a typical rank's own phases, the wait of the rank that waits least, and what others wait beyond."""


@dataclass(frozen=True, slots=True)
class StepWindowObservation:
    """Consecutive steps of one attempt, reduced."""

    attempt: int
    world_size: int
    steps: tuple[int, ...]
    step_seconds: Floats
    """Length of each of its steps: the median over ranks."""
    input_seconds: Floats
    """What ranks waited for data before each of its steps: the median over ranks."""
    typical_seconds: float
    """Their median."""
    parts: Floats
    """Seconds of each of `PARTS`: medians over ranks and steps; NaN where not measured."""
    input_share: Floats
    """Of each rank that reported: the median over steps of the share of the step that it waits for data."""
    samples: float
    """Samples of a rank in a step, the median over steps."""
    micro_batches: float
    """Likewise."""
