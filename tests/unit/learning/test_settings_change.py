"""What the loss model knows beside the loss: learning rate, evaluations, restarts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stallwatch.detector.core.learning import STOPPED_STATES, LossAssessment, LossPoint
from stallwatch.detector.core.observations import AttemptObservation, EvaluationObservation
from stallwatch.detector.signals.learning_rate import LearningRateTracker
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.loss_config import LossConfig
from support.loss_curves import Shape, flat_from, noisy, power_law, states, watch


def follow(shape: Shape, rate: Shape, steps: int, noise: float, seed: int) -> list[LossAssessment]:
    """Assessments of a curve with its learning rate."""
    axis = np.arange(steps, dtype=float)
    values, rates = noisy(shape, steps, noise, seed), np.broadcast_to(rate(axis), steps)
    signal = LossSignal()
    points = zip(values.tolist(), rates.tolist(), strict=True)
    return [
        look
        for step, (value, lr) in enumerate(points)
        for look in signal.update(LossPoint(step, value, 1.0, lr))
    ]


def jumps(rates: list[float]) -> list[int]:
    """Where the tracker sees a jump."""
    tracker = LearningRateTracker()
    return [step for step, rate in enumerate(rates) if tracker.update(step, rate)]


def test_a_cut_is_a_jump_and_a_schedule_is_none() -> None:
    """A step decay jumps at its steps; warm-up, cosine and linear decay never do."""
    assert jumps([0.1] * 50 + [0.01] * 50) == [50]
    assert not jumps([0.1 * (step + 1) / 100 for step in range(100)])
    assert not jumps([0.05 * (1 + math.cos(math.pi * step / 1000)) for step in range(1001)])
    assert not jumps([0.1 * (1 - step / 1000) for step in range(1000)])


def test_a_warm_restart_is_a_jump() -> None:
    """The learning rate going back to its peak re-opens the question."""
    cycle = [0.05 * (1 + math.cos(math.pi * step / 300)) + 1e-4 for step in range(300)]
    assert jumps(cycle * 3) == [300, 600]


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_a_learning_rate_of_nothing_is_a_plateau_in_bounded_time(noise: float) -> None:
    """After a cut to zero the flat loss is called within half as many steps again."""
    shape = flat_from(lambda t: 1.3 + 2.8 * (1 + t / 40) ** -0.6, 1000)
    looks = follow(shape, lambda t: np.where(t < 1000, 1e-3, 0.0), 1500, noise, 1)
    assert looks[-1].state == "plateau"
    assert not any(look.state in STOPPED_STATES for look in looks if look.step < 1000)


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_that_helps_is_no_plateau(seed: int) -> None:
    """A cut to a tenth after which the loss falls again is never called."""
    looks = follow(
        lambda t: np.where(t < 1000, 1.3 + 2.8 * (1 + t / 40) ** -0.6, 1.2 + 0.5 * np.exp(-(t - 1000) / 500)),
        lambda t: np.where(t < 1000, 1e-3, 1e-4),
        2000,
        0.05,
        seed,
    )
    assert not any(look.state in STOPPED_STATES for look in looks)


def test_a_pause_during_warm_up_is_no_plateau() -> None:
    """While the learning rate is raised, and a while after, a flat loss is not called."""
    looks = follow(
        lambda t: np.minimum(2.0, 4.0 - t / 150), lambda t: np.minimum(1e-3, t * 1e-6), 1100, 0.01, 2
    )
    assert not any(look.state in STOPPED_STATES for look in looks)


def test_the_end_of_a_cosine_schedule_is_no_plateau() -> None:
    """A healthy run whose schedule ends at zero gets no call at its end."""
    looks = follow(
        lambda t: 1.0 + 2.0 * (1 + t / 50) ** -0.5,
        lambda t: 5e-4 * (1 + np.cos(np.pi * t / 2000)),
        2000,
        0.03,
        3,
    )
    assert not any(look.state in STOPPED_STATES for look in looks)


def test_a_precise_evaluation_loss_confirms_a_noisy_plateau() -> None:
    """Where the training loss is too noisy to say, the evaluation loss decides."""
    values = noisy(flat_from(power_law(0.3), 1500), 4000, 0.3, 4)
    alone, helped = LossSignal(), LossSignal()
    called: dict[str, int] = {}
    rng = np.random.default_rng(5)
    for step, value in enumerate(values.tolist()):
        if step % 50 == 49:
            level = (min(step, 1500) + 1) ** -0.3
            helped.update(EvaluationObservation(step, level * (1 + 0.002 * rng.normal()), 1000.0))
        for name, signal in (("alone", alone), ("helped", helped)):
            for look in signal.update(LossPoint(step, value)):
                if look.state == "plateau":
                    called.setdefault(name, step)
    assert 1500 < called["helped"] < called.get("alone", 10**9)


def test_an_evaluation_loss_that_falls_vetoes() -> None:
    """A noisy training loss is not called while the evaluation loss still falls."""
    values = noisy(power_law(0.1), 4000, 0.3, 6)
    signal = LossSignal()
    out: list[LossAssessment] = []
    for step, value in enumerate(values.tolist()):
        if step % 50 == 49:
            signal.update(EvaluationObservation(step, (step + 1) ** -0.1, 1000.0))
        out.extend(signal.update(LossPoint(step, value)))
    assert not any(look.state in STOPPED_STATES for look in out)


def test_a_loss_that_stays_no_number_has_diverged() -> None:
    """Three values in a row that are not finite are a divergence; one or two are skipped."""
    values = noisy(power_law(0.3), 300, 0.02, 7).tolist()
    assert "diverging" not in states(watch([*values, math.nan, math.nan, *values[-50:]]))
    looks = watch([*values, math.nan, math.nan, math.nan])
    assert looks[-1].state == "diverging"
    assert "finite" in looks[-1].reason


def test_a_restart_from_scratch_begins_anew() -> None:
    """A new attempt that starts at step 0 forgets the plateau of the old one."""
    signal = LossSignal()
    for step, value in enumerate(noisy(flat_from(power_law(0.3), 500), 2000, 0.02, 8).tolist()):
        list(signal.update(LossPoint(step, value)))
    assert signal.states.state == "plateau"
    list(signal.update(AttemptObservation(0, 1, 8)))
    out: list[LossAssessment] = []
    for step, value in enumerate(noisy(power_law(0.3), 1000, 0.02, 9).tolist()):
        out.extend(signal.update(LossPoint(step, value)))
    assert not any(look.state in STOPPED_STATES for look in out)
    assert signal.history.count == 1000


def test_a_short_step_back_changes_nothing() -> None:
    """A restart from a recent checkpoint repeats a few steps and keeps the state."""
    values = noisy(flat_from(power_law(0.3), 500), 2000, 0.02, 10).tolist()
    signal = LossSignal()
    for step, value in enumerate(values):
        list(signal.update(LossPoint(step, value)))
    list(signal.update(AttemptObservation(1900, 1, 8)))
    looks = [
        look for step in range(1900, 2400) for look in signal.update(LossPoint(step, values[step - 500]))
    ]
    assert {look.state for look in looks} == {"plateau"}


@pytest.mark.parametrize(("noise", "due"), [(0.003, 38), (0.01, 43)])
def test_fifty_epochs_flat_from_the_27th(noise: float, due: int) -> None:
    """A plateau in the second half of an epoch curve is called in time; the twin that goes on is not."""

    def shape(steps: np.ndarray) -> np.ndarray:
        return 2.3 * (steps + 1) ** -0.5

    in_time, config = 0, LossConfig(fewest_steps=0)
    for seed in range(8):
        calls = [
            look.step
            for look in watch(noisy(flat_from(shape, 27), 50, noise, seed), config)
            if look.state == "plateau"
        ]
        in_time += any(27 <= step <= due for step in calls)
        assert not STOPPED_STATES.intersection(states(watch(noisy(shape, 50, noise, seed), config)))
    assert in_time >= 7
