"""A periodic component in a detrended series, found against a red background."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FEWEST_POINTS = 24
_FEWEST_CYCLES = 3
_SIGNIFICANCE = 0.001


@dataclass(frozen=True, slots=True)
class Swing:
    """A period that stands out."""

    amplitude: float
    period: float
    """In steps."""
    probability: float
    """Of so strong a peak by chance (Fisher's g)."""


def find_swing(steps: Floats, values: Floats, smallest: float) -> Swing | None:
    """Fisher's g test (Fisher 1929) on the Hann-windowed periodogram over an AR(1)-shaped background.

    Args:
        steps: Position of each point, about evenly spaced.
        values: The series; a parabola is taken out of it.
        smallest: Amplitude below which a swing does not matter.
    """
    points = len(values)
    if points < _FEWEST_POINTS:
        return None
    place = np.linspace(-1, 1, points)
    residual = values - np.polynomial.polynomial.polyval(
        place, np.polynomial.polynomial.polyfit(place, values, 2)
    )
    power = float(residual @ residual)
    if power <= points * (1e-9 * float(np.max(np.abs(values)))) ** 2 or power < 1e-200:
        return None
    cycles = np.arange(1, points // 2 + 1)
    spectrum = np.abs(np.fft.rfft(residual * np.hanning(points))[1:]) ** 2
    correlation = max(0.0, float(residual[1:] @ residual[:-1]) / power)
    background = 1.0 / (1 + correlation**2 - 2 * correlation * np.cos(2 * math.pi * cycles / points))
    whitened = (spectrum / background)[cycles >= _FEWEST_CYCLES]
    kept = cycles[cycles >= _FEWEST_CYCLES]
    share = float(whitened.max() / whitened.sum())
    # Hann's window correlates neighbouring frequencies: about two thirds of them are independent.
    free = len(whitened) / 1.5
    probability = min(1.0, free * (1 - share) ** (free - 1))
    amplitude = math.sqrt(2 * power / points)
    if probability >= _SIGNIFICANCE or amplitude <= smallest:
        return None
    period = float(steps[-1] - steps[0]) * points / max(points - 1, 1) / float(kept[int(np.argmax(whitened))])
    return Swing(amplitude, period, probability)
