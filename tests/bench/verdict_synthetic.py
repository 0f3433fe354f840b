"""Seeded curves whose truth is known: power laws that never stop, curves that stop, curves of fifty epochs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.learning import STOPPED_STATES, LossPoint
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.loss_config import LossConfig

Floats = NDArray[np.float64]
Shape = Callable[[Floats], Floats]
Row = dict[str, float | int | str]

EPOCHS, FLAT_EPOCH = 50, 27
_DUE = {0.003: 38, 0.01: 43, 0.02: 47}
"""Epoch by which a plateau from epoch 27 on should be called, by noise of the epoch mean."""

EPOCH_SHAPES: dict[str, Shape] = {
    "exponential": lambda t: 0.3 + 2.0 * np.exp(-t / 9),
    "slow exponential": lambda t: 0.2 + 2.0 * np.exp(-t / 15),
    "power 0.5": lambda t: 2.3 * (t + 1) ** -0.5,
    "power 0.3": lambda t: 0.2 + 2.0 * (t + 1) ** -0.3,
    "logarithmic": lambda t: 2.3 - 0.45 * np.log(t + 1),
    "step": lambda t: np.where(t < 12, 2.3 - 0.05 * t, 1.2 - 0.012 * (t - 12)),
}


def noise(rng: np.random.Generator, points: int, correlation: float, *, heavy: bool = False) -> Floats:
    """AR(1) noise of unit variance, normal or with Student-t tails (three degrees of freedom)."""
    white = rng.standard_t(3, points) / math.sqrt(3) if heavy else rng.normal(size=points)
    white = white * math.sqrt(1 - correlation**2)
    if correlation == 0:
        return white
    out, last = np.empty(points), float(rng.normal())
    for index, value in enumerate(white.tolist()):
        last = correlation * last + value
        out[index] = last
    return out


def calls(values: Floats, config: LossConfig) -> list[tuple[int, str]]:
    """Step and state of every look, one point a step."""
    signal = LossSignal(config=config)
    out: list[tuple[int, str]] = []
    for step, value in enumerate(values.tolist()):
        out.extend((look.step, look.state) for look in signal.update(LossPoint(step, value)))
    return out


def stopped(looks: list[tuple[int, str]]) -> list[int]:
    """Steps of the looks that call the run stopped."""
    return [step for step, state in looks if state in STOPPED_STATES]


def bound(flat_from: float, sigma: float, correlation: float, material: float) -> float:
    """Points after the stop within which no test can be sure: W = (12 (z s H / g)^2)^(1/3), s inflated for AR(1)."""
    horizon = 0.5 * flat_from
    long_run = sigma * math.sqrt((1 + correlation) / (1 - correlation))
    return float((12 * (1.645 * long_run * horizon / material) ** 2) ** (1 / 3))


EXPONENTS = (0.05, 0.1, 0.2, 0.3, 0.5)
_NOISES = ((0.0, 0.05, False), (0.0, 0.3, False), (0.9, 0.02, False), (0.9, 0.05, False), (0.0, 0.05, True))
"""Correlation, standard deviation as a share of the loss, heavy tails."""


def epoch_power(shape: Shape, sigma: float, due: int) -> float:
    """Power by `due` of the best test at 5 % of "flat since epoch 27" against a line that still gains what matters.

    It is told where the flat part begins and how large the noise is: a detector that has to find out both has less.
    """
    first, level = float(shape(np.zeros(1))[0]), float(shape(np.array([float(FLAT_EPOCH)]))[0])
    points, config = due + 1, LossConfig()
    material = config.material_share * min(first - level, level) * (1 + config.few_points / points)
    slope = material / (config.horizon_share * due)
    error = sigma * level * math.sqrt(12 / (due - FLAT_EPOCH + 1) ** 3)
    return statistics.NormalDist().cdf(slope / error - 1.645)


def power_laws(
    config: LossConfig, steps: int, seeds: int, exponents: tuple[float, ...] = EXPONENTS
) -> list[Row]:
    """Runs that improve for ever, watched at every step: the share that was ever called stopped."""
    conditions = [
        (config, steps, seeds, exponent, floor, noises)
        for exponent in exponents
        for floor in (0.0, 1.0)
        for noises in _NOISES
    ]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_power_law, conditions))


def _power_law(condition: tuple[LossConfig, int, int, float, float, tuple[float, float, bool]]) -> Row:
    config, steps, seeds, exponent, floor, (correlation, sigma, heavy) = condition
    axis = np.arange(steps, dtype=float) + 1
    curve = floor + axis**-exponent
    # After the point where the truth itself is flat a call is no false one.
    gain = axis**-exponent * (1 - 1.5**-exponent)
    learns = gain >= 0.01 * np.minimum(1 - axis**-exponent, curve)
    learns[:2] = True
    false = 0
    for seed in range(seeds):
        values = curve * (1 + sigma * noise(np.random.default_rng(seed), steps, correlation, heavy=heavy))
        false += any(learns[step] for step in stopped(calls(values, config)))
    return {
        "exponent": exponent, "floor": floor, "correlation": correlation, "noise": sigma,
        "tails": "heavy" if heavy else "normal", "runs": seeds, "false": false,
    }  # fmt: skip


def plateaus(config: LossConfig, start: int, seeds: int) -> list[Row]:
    """Power laws, exponentials and a restart that stop at a step: share called within 1.5 times that, delay, bound."""
    shapes: dict[str, Shape] = {
        "power 0.1": lambda t: (t + 1) ** -0.1,
        "power 0.3": lambda t: (t + 1) ** -0.3,
        "power 0.5 + 1": lambda t: 1 + (t + 1) ** -0.5,
        "exponential": lambda t: 0.2 + 2 * np.exp(-4 * t / start),
        "restart": lambda t: 0.2 + 2 * np.exp(-5 * np.where(t < start / 2, t, t - start / 2.5) / start),
    }
    rows: list[Row] = []
    axis = np.arange(int(2.5 * start), dtype=float)
    for name, shape in shapes.items():
        for correlation, sigma in ((0.0, 0.02), (0.0, 0.1), (0.9, 0.02)):
            curve = shape(np.minimum(axis, start))
            delays = []
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                looks = stopped(calls(curve * (1 + sigma * noise(rng, len(axis), correlation)), config))
                delays.append(min((step for step in looks if step >= start), default=10**9) / start - 1)
            level = float(curve[-1])
            material = 0.01 * min(abs(float(curve[0]) - level), level)
            rows.append(
                {
                    "shape": name, "correlation": correlation, "noise": sigma, "runs": seeds,
                    "called": sum(delay <= 1.5 for delay in delays) / seeds,
                    "median delay": round(statistics.median(delays), 3),
                    "bound": round(bound(start, sigma * level, correlation, material) / start, 3),
                }
            )  # fmt: skip
    return rows


def epochs(config: LossConfig, seeds: int) -> list[Row]:
    """Fifty epochs, flat from the 27th: share called in time, and false calls on twins that go on."""
    rows: list[Row] = []
    config = replace(config, fewest_steps=0)  # an epoch is no step
    axis = np.arange(EPOCHS, dtype=float)
    for sigma, due in _DUE.items():
        for name, shape in EPOCH_SHAPES.items():
            in_time = false = 0
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                curve = shape(np.minimum(axis, FLAT_EPOCH))
                looks = stopped(calls(curve * (1 + sigma * noise(rng, EPOCHS, 0.0)), config))
                in_time += any(FLAT_EPOCH <= step <= due for step in looks)
                twin = shape(axis) * (1 + sigma * noise(rng, EPOCHS, 0.0))
                for step in stopped(calls(twin, config)):
                    now, later = float(shape(np.array(float(step)))), float(shape(np.array(1.5 * step)))
                    if now - later >= 0.02 * min(abs(float(shape(np.array(0.0))) - now), now):
                        false += 1
                        break
            rows.append(
                {
                    "noise": sigma, "due": due, "shape": name, "runs": seeds, "in time": in_time, "false": false,
                    "power allowed": round(epoch_power(shape, sigma, due), 2),
                }
            )  # fmt: skip
    return rows
