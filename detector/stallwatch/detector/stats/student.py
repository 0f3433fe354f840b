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


_TABLE = np.linspace(-10.0, 10.0, 401)
"""Places of a table in arcsinh of the value, in which both the middle and the tails are smooth."""


def student_cdfs_interpolated(values: Floats, degrees: float) -> Floats:
    """The same for thousands of values, from a table, to within 1e-4."""
    table = special.stdtr(degrees, np.sinh(_TABLE))
    return np.asarray(np.interp(np.arcsinh(values), _TABLE, table), dtype=np.float64)


def student_quantile(probability: float, degrees: float) -> float:
    """The value below which a Student t variable lies with this probability."""
    return float(special.stdtrit(degrees, probability))
