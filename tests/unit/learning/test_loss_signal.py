"""The loss model on curves whose truth is known."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from stallwatch.detector.core.learning import LOSS_STATES, STOPPED_STATES, LossPoint
from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.loss_config import LossConfig
from support.loss_curves import flat_from, noisy, power_law, states, watch


@pytest.mark.parametrize("exponent", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize(("noise", "correlation"), [(0.05, 0.0), (0.02, 0.9)])
def test_a_slow_power_law_is_no_plateau(exponent: float, noise: float, correlation: float) -> None:
    """A curve that improves for ever is never called stopped."""
    values = noisy(power_law(exponent), 20_000, noise, 1, correlation)
    assert not STOPPED_STATES.intersection(states(watch(values)))


@pytest.mark.parametrize("exponent", [0.1, 0.3])
def test_a_true_plateau_is_called(exponent: float) -> None:
    """A power law that stops is called, and dated to within a tenth of the run."""
    values = noisy(flat_from(power_law(exponent), 4000), 12_000, 0.02, 2)
    looks = watch(values)
    assert looks[-1].state == "plateau"
    called = next(look for look in looks if look.state == "plateau")
    assert called.step > 4000
    assert abs(called.since_step - 4000) < 1200


@pytest.mark.parametrize("exponent", [0.05, 0.1, 0.3])
def test_the_first_steps_of_a_run_are_no_plateau(exponent: float) -> None:
    """Red noise of a few dozen optimizer steps looks like any curve: no verdict is taken from it."""
    for seed in range(8):
        values = noisy(power_law(exponent, 0.2), 150, 0.02, seed, 0.9)
        assert not STOPPED_STATES.intersection(states(watch(values)))


@pytest.mark.parametrize("seed", range(3))
def test_the_onset_of_a_sharp_bend_is_dated(seed: int) -> None:
    """A fast fall early in a long run is no flat start, however the fit of its later half reads it."""
    values = noisy(lambda t: 2.3 - 0.8 * np.minimum(t / 300, 1), 3000, 0.03, seed)
    called = next(look for look in watch(values) if look.state == "plateau")
    assert abs(called.since_step - 300) <= 60


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scale_does_not_matter(factor: float) -> None:
    """Multiplying the loss by a constant changes no state."""
    values = noisy(flat_from(power_law(0.2), 2000), 6000, 0.05, 3)
    assert [(a.step, a.state) for a in watch(values)] == [(a.step, a.state) for a in watch(values * factor)]


def test_the_same_points_give_the_same_assessments() -> None:
    """The model is deterministic."""
    values = noisy(power_law(0.3), 3000, 0.05, 4)
    assert watch(values) == watch(values)


def test_snapshots_restore_exactly() -> None:
    """A restored signal goes on as the original does."""
    values = noisy(flat_from(power_law(0.3), 500), 2000, 0.02, 5)
    signal = LossSignal()
    for step, value in enumerate(values[:1000]):
        list(signal.update(LossPoint(step, float(value))))
    copy = pickle.loads(pickle.dumps(signal))
    for step, value in enumerate(values[1000:], 1000):
        assert list(signal.update(LossPoint(step, float(value)))) == list(
            copy.update(LossPoint(step, float(value)))
        )


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30])
def test_a_constant_loss_is_a_plateau_at_most(value: float) -> None:
    """A loss that never moves is no divergence and no improvement."""
    seen = states(watch([value] * 400))
    assert set(seen) <= {"warming_up", "plateau"}
    assert seen[-1] == "plateau"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_left_out(bad: float) -> None:
    """A NaN or an infinity leaves no trace in the numbers."""
    values = noisy(power_law(0.3), 1000, 0.02, 6)
    values[::50] = bad
    for look in watch(values):
        assert look.state in LOSS_STATES
        assert all(
            map(math.isfinite, (look.level, look.slope_per_step, look.noise, look.plateau_probability))
        )


def test_gaps_and_late_points_are_harmless() -> None:
    """A fifth of the points missing and a tenth late: the same conclusion."""
    rng = np.random.default_rng(7)
    values = noisy(flat_from(power_law(0.3), 2000), 8000, 0.02, 7)
    steps = [step for step in range(8000) if rng.random() > 0.2]
    order = sorted(steps, key=lambda step: step + (200 * rng.random() if rng.random() < 0.1 else 0))
    signal = LossSignal()
    looks = [look for step in order for look in signal.update(LossPoint(step, float(values[step])))]
    assert looks[-1].state == "plateau"


def test_ranks_are_summed() -> None:
    """Splitting the samples over ranks changes nothing."""
    values = noisy(flat_from(power_law(0.3), 500), 1500, 0.02, 8)
    signal = LossSignal()
    out = []
    for step, value in enumerate(values):
        samples = np.array([8.0, 24.0])
        out += signal.update(_step(step, float(value) * samples, samples))
    assert [a.state for a in out] == [a.state for a in watch(values)]


def _step(step: int, loss_sum: np.ndarray, samples: np.ndarray) -> StepObservation:
    none = np.full(len(samples), np.nan)
    counts = np.full(len(samples), -1)
    return StepObservation(
        step=step, attempt=0, world_size=len(samples), ranks=tuple(range(len(samples))), loss_sum=loss_sum,
        samples=samples, micro_batches=counts, learning_rates=(), step_seconds=none, input_seconds=none,
        forward_seconds=none, backward_seconds=none, sync_seconds=none, optimizer_seconds=none, ddp_iterations=counts,
        collectives=counts, gradient_fingerprint=counts,
    )  # fmt: skip


def test_a_blow_up_is_a_divergence() -> None:
    """A loss that climbs for good is called diverging, and dated."""
    values = noisy(power_law(0.3), 4000, 0.03, 9)
    values[2500:] *= np.linspace(1, 8, 1500)
    looks = watch(values)
    called = next(look for look in looks if look.state == "diverging")
    assert 2500 < called.step < 3400
    assert looks[-1].state == "diverging"


def test_a_healthy_short_run_gives_no_warning() -> None:
    """A few hundred improving steps are never called stopped."""
    for seed in range(10):
        values = noisy(lambda t: 2.3 * np.exp(-t / 150) + 0.3, 400, 0.05, seed)
        assert not STOPPED_STATES.intersection(states(watch(values)))


def test_a_drop_after_a_cut_reopens_the_question() -> None:
    """A plateau at one learning rate ends where a cut lets the loss fall again."""
    rng = np.random.default_rng(10)
    signal = LossSignal()
    out = []
    for step in range(6000):
        clean = 1.0 + math.exp(-step / 300) if step < 4000 else 0.5 + 0.5 * math.exp(-(step - 4000) / 500)
        rate = 0.1 if step < 4000 else 0.01
        out += signal.update(LossPoint(step, clean * (1 + 0.02 * rng.normal()), 1.0, rate))
    assert any(look.state == "plateau" for look in out if look.step < 4000)
    assert not any(look.state in STOPPED_STATES for look in out if 4000 <= look.step < 5500)


def test_the_state_is_small() -> None:
    """A long run's whole state is within 64 KiB."""
    signal = LossSignal()
    for step in range(0, 10_000_000, 500):
        list(signal.update(LossPoint(step, 1.0 + 1.0 / (step + 1))))
    assert len(pickle.dumps(signal)) <= 64 * 1024


def test_settings_are_checked() -> None:
    """Impossible settings are refused by name."""
    with pytest.raises(ValueError, match="false_alarm_rate"):
        LossConfig(false_alarm_rate=0.7)
    with pytest.raises(ValueError, match="total_steps"):
        LossConfig(total_steps=0)
