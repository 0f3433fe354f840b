"""Student's t distribution, as the rest of the statistics use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special  # type: ignore[import-untyped]

Floats = NDArray[np.float64]


def student_cdf(value: float, degrees: float) -> float:
    """Probability that a Student t variable is below `value`."""
    return float(special.stdtr(degrees, value))


def student_cdfs(values: Floats, degrees: float) -> Floats:
    """The same for an array of any shape."""
    return np.asarray(special.stdtr(degrees, values), dtype=np.float64)


def student_quantile(probability: float, degrees: float) -> float:
    """The value below which a Student t variable lies with this probability."""
    return float(special.stdtrit(degrees, probability))
