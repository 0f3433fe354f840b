"""The shape of a cause: evidence for and against it, in nats, each with its sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from stallwatch.detector.core.vitals import Vitals

LIMIT = 6.0
"""No single piece of evidence counts more: a measurement can be wrong in ways that nobody thought of."""
DECISIVE = 4.0
"""What an invariant that nothing else breaks adds on top."""


@dataclass(frozen=True, slots=True)
class Term:
    """One piece of evidence: log-likelihood ratio of this cause against the others, and what was seen."""

    nats: float
    text: str


@dataclass(frozen=True, slots=True)
class Weighing:
    """What speaks for and against one cause."""

    kind: str
    terms: tuple[Term, ...]
    reason: str
    """One sentence with numbers."""
    advice: tuple[str, ...] = ()
    """Concrete steps, tied to the numbers."""
    experiment: str = ""
    """The smallest experiment that would confirm or refute it."""
    decisive: bool = False
    """Whether an invariant is broken that nothing else breaks."""
    yields: bool = False
    """Whether it says only that a reason is shared, and so gives way to a fault that would be the answer by itself."""
    since_step: int = -1
    """Where it began; -1 when unknown."""
    layers: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()

    @property
    def score(self) -> float:
        """Sum of the evidence, in nats."""
        total = sum(max(-LIMIT, min(LIMIT, term.nats)) for term in self.terms)
        return total + (DECISIVE if self.decisive else 0.0)


Weigh = Callable[[Vitals], Weighing | None]
"""A cause: a pure function; None when nothing is known that it could be weighed by."""


def ramp(value: float, none: float, full: float, nats: float) -> float:
    """Evidence that grows linearly between two values and is bounded: 0 at `none`, `nats` at `full`; 0 when unknown.

    >>> ramp(0.3, 0.1, 0.5, 4.0)
    2.0
    >>> ramp(float("nan"), 0.1, 0.5, 4.0)
    0.0
    """
    if math.isnan(value):
        return 0.0
    return nats * min(max((value - none) / (full - none), 0.0), 1.0)


def log_ramp(value: float, none: float, full: float, nats: float) -> float:
    """`ramp` over the logarithm, for ratios; 0 when the value is unknown or not above 0."""
    if not value > 0 or math.isinf(value):
        return 0.0
    return ramp(math.log(value), math.log(none), math.log(full), nats)
