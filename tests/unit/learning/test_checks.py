"""The learning checks: what they call, what they say, and that they resolve."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pytest

from stallwatch.detector.checks.contract import Check
from stallwatch.detector.checks.learning import LEARNING_CHECKS
from stallwatch.detector.checks.loss_spike import LossSpike, LossSpikeConfig
from stallwatch.detector.checks.non_finite import NonFinite
from stallwatch.detector.checks.overfitting import Overfitting
from stallwatch.detector.core.learning import LossPoint
from stallwatch.detector.core.observations import EvaluationObservation, StepObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.signals.loss import LossSignal
from support.loss_curves import flat_from, noisy, power_law


def run(values: Iterable[float], evaluations: dict[int, float] | None = None) -> dict[str, list[Verdict]]:
    """All verdicts of all learning checks over one curve, by kind."""
    signal = LossSignal()
    checks: list[Check] = [check() for check in LEARNING_CHECKS.values()]
    out: dict[str, list[Verdict]] = {kind: [] for kind in LEARNING_CHECKS}
    for step, value in enumerate(values):
        observations: list[object] = [LossPoint(step, float(value))]
        observations += signal.update(observations[0])
        if evaluations and step in evaluations:
            observations.append(EvaluationObservation(step, evaluations[step], 100.0))
        for observation in observations:
            for check in checks:
                if isinstance(observation, check.consumes):
                    verdict = check.update(observation)
                    if verdict is not None:
                        out[check.kind].append(verdict)
    return out


def firing(found: dict[str, list[Verdict]]) -> set[str]:
    """Kinds that ever fired by themselves: what needs a cause as well is nothing without one."""
    return {
        kind
        for kind, verdicts in found.items()
        if any(verdict.firing and not verdict.needs_cause for verdict in verdicts)
    }


@pytest.mark.parametrize("kind", sorted(LEARNING_CHECKS))
def test_every_check_keeps_the_contract(kind: str) -> None:
    """A check is a dataclass of plain state whose kind is in the vocabulary and whose config is frozen."""
    check = LEARNING_CHECKS[kind]()
    assert isinstance(check, Check)
    assert check.kind == kind
    assert kind in VOCABULARY
    assert dataclasses.is_dataclass(check)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(check.config, dataclasses.fields(check.config)[0].name, 1)


@pytest.mark.parametrize("values", [[math.nan] * 50, [math.inf] * 50, [0.0] * 50, [1.0, math.nan] * 40])
def test_no_check_falls_over_strange_values(values: list[float]) -> None:
    """NaN, infinities and zeros raise nothing."""
    run(values)


def test_a_plateau_is_found_with_numbers_and_advice() -> None:
    """A plateau names its level, its onset and what to do."""
    found = run(noisy(flat_from(power_law(0.3), 2000), 8000, 0.02, 1))
    assert firing(found) == {"plateau"}
    verdict = next(verdict for verdict in found["plateau"] if verdict.firing)
    assert "flat" in verdict.reason
    assert "95 %" in verdict.reason
    assert 1 <= len(verdict.advice) <= 3
    assert abs(verdict.since_step - 2000) < 800


def test_a_healthy_run_gets_no_warning() -> None:
    """Nothing of severity warning or above on a run that learns."""
    for seed in range(3):
        kinds = firing(run(noisy(lambda t: 2.3 * np.exp(-t / 300) + 0.2, 800, 0.05, seed)))
        assert not {kind for kind in kinds if VOCABULARY[kind].severity.rank > 0}


def test_a_plateau_resolves_when_the_loss_falls_again() -> None:
    """The finding ends where learning resumes."""
    curve = noisy(lambda t: np.where(t < 4000, 1.0, np.maximum(1.0 - (t - 4000) / 4000, 0.2)), 8000, 0.02, 2)
    verdicts = run(curve)["plateau"]
    assert verdicts[0].firing
    assert not verdicts[-1].firing


def test_a_spike_is_found_and_resolved() -> None:
    """One excursion is called at its step and closed with how fast it recovered."""
    values = noisy(power_law(0.3), 1000, 0.02, 3)
    values[600:605] *= 6
    verdicts = run(values)["loss_spike"]
    assert [verdict.firing for verdict in verdicts] == [True, False]
    assert verdicts[0].step == 600
    assert "recovered" in verdicts[1].reason


def test_heavy_tailed_noise_is_no_spike() -> None:
    """Student-t noise with three degrees of freedom is its own measure."""
    rng = np.random.default_rng(4)
    values = 1.0 + 3.0 * np.exp(-np.arange(5000) / 500) + 0.02 * rng.standard_t(3, 5000)
    assert not run(values)["loss_spike"]


def test_an_excursion_that_stays_is_given_up() -> None:
    """A level that never comes back ends the excursion, and says so."""
    check = LossSpike(LossSpikeConfig(give_up=20))
    rng = np.random.default_rng(5)
    verdicts = [
        check.update(LossPoint(step, float(1 + 9 * (step >= 100) + 0.01 * rng.normal())))
        for step in range(200)
    ]
    assert "has not come back" in [verdict for verdict in verdicts if verdict][1].reason


def test_a_nan_names_its_step_and_rank() -> None:
    """The rank that logged samples and a NaN is named; one that logged nothing is not."""
    check = NonFinite()
    counts = np.full(3, -1)
    none = np.full(3, np.nan)
    verdict = check.update(
        StepObservation(
            step=7, attempt=0, world_size=3, ranks=(0, 1, 2), loss_sum=np.array([1.0, np.nan, np.nan]),
            samples=np.array([4.0, 4.0, np.nan]), micro_batches=counts, learning_rates=(), step_seconds=none,
            input_seconds=none, forward_seconds=none, backward_seconds=none, sync_seconds=none, optimizer_seconds=none,
            ddp_iterations=counts, collectives=counts, gradient_fingerprint=counts,
        )
    )  # fmt: skip
    assert verdict is not None
    assert verdict.firing
    assert verdict.ranks == (1,)
    assert "step 7" in verdict.reason


def test_non_finite_resolves_after_finite_steps() -> None:
    """The finding ends when the loss has been a number for long enough."""
    verdicts = run([*[1.0] * 20, math.nan, *[1.0] * 100])["non_finite"]
    assert [verdict.firing for verdict in verdicts] == [True, False]


def test_overfitting_is_found() -> None:
    """A rising evaluation loss beside a falling training loss is called from its lowest point."""
    rng = np.random.default_rng(6)
    evaluations = {step: 1.0 + abs(step - 2000) / 4000 + 0.01 * rng.normal() for step in range(0, 6000, 200)}
    found = run(noisy(power_law(0.3), 6000, 0.02, 6), evaluations)
    assert "overfitting" in firing(found)
    assert abs(found["overfitting"][0].since_step - 2000) <= 600


def evaluated(values: Iterable[float]) -> list[Verdict]:
    """Verdicts of the overfitting check on evaluations 200 steps apart beside a training loss that improves."""
    check = Overfitting(training_state="improving")
    seen = (check.update(EvaluationObservation(200 * i, float(v), 100.0)) for i, v in enumerate(values))
    return [verdict for verdict in seen if verdict is not None]


def test_a_smooth_rise_of_the_evaluation_loss_is_found() -> None:
    """A parabola without noise, as a large evaluation set gives, is called soon after its lowest point."""
    verdicts = evaluated(1 + 0.5 * ((np.arange(40.0) - 15) / 15) ** 2)
    assert verdicts
    assert verdicts[0].firing
    assert verdicts[0].step <= 200 * 25
    assert abs(verdicts[0].since_step - 200 * 15) <= 200


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_noise_of_a_flat_evaluation_loss_is_no_overfitting(noise: float) -> None:
    """The lowest of many noisy values lies below the others: that is no rise."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        assert not evaluated((0.5 + np.exp(-np.arange(60) / 4)) * (1 + noise * rng.normal(size=60)))


def test_swings_without_progress_are_an_oscillation() -> None:
    """A periodic loss is called, with its amplitude and its period."""
    steps = np.arange(4000)
    rng = np.random.default_rng(11)
    curve = 1 + np.exp(-steps / 100) + 0.2 * np.sin(2 * math.pi * steps / 160) + 0.02 * rng.normal(size=4000)
    verdict = next(verdict for verdict in run(curve)["oscillation"] if verdict.firing)
    assert "gets nowhere" in verdict.reason
    assert verdict.evidence["swing"] == pytest.approx(0.2, rel=0.4)
    assert verdict.evidence["period_steps"] == pytest.approx(160, rel=0.2)
    assert "learning rate" in verdict.advice[0]


def test_bouncing_from_step_to_step_is_an_oscillation() -> None:
    """A loss that alternates, as with a learning rate at the edge of stability, is called."""
    steps = np.arange(3000)
    rng = np.random.default_rng(12)
    curve = 1 + np.exp(-steps / 200) + 0.1 * (-1.0) ** steps + 0.02 * rng.normal(size=3000)
    found = run(curve)
    assert "oscillation" in firing(found)
    assert "plateau" not in firing(found)
    assert "from step to step" in found["oscillation"][0].reason


@pytest.mark.slow
def test_noise_is_no_oscillation() -> None:
    """White and red noise around a falling or a flat loss have no period."""
    for seed, correlation in ((0, 0.0), (1, 0.0), (2, 0.9), (3, 0.9)):
        for shape in (power_law(0.2), flat_from(power_law(0.3), 500)):
            assert "oscillation" not in firing(run(noisy(shape, 3000, 0.03, seed, correlation)))


def test_a_run_that_never_moved_is_told_to_raise_its_learning_rate() -> None:
    """Cutting the rate of a run that has not begun to learn would be the wrong advice."""
    rng = np.random.default_rng(13)
    stuck = next(v for v in run(2.3 + 0.01 * rng.normal(size=12_000))["plateau"] if v.firing)
    learned = next(
        v for v in run(noisy(flat_from(power_law(0.3), 500), 4000, 0.02, 13))["plateau"] if v.firing
    )
    assert "raise the learning rate" in stuck.advice[0]
    assert learned.advice[0].startswith("Cut the learning rate")


def test_falling_evaluation_is_no_overfitting() -> None:
    """Both losses falling is neither overfitting nor an evaluation plateau."""
    rng = np.random.default_rng(7)
    evaluations = {step: (step + 50) ** -0.3 * (1 + 0.02 * rng.normal()) for step in range(0, 6000, 200)}
    found = firing(run(noisy(power_law(0.3), 6000, 0.02, 7), evaluations))
    assert not found & {"overfitting", "eval_plateau"}


def test_flat_evaluation_beside_falling_training_is_called() -> None:
    """Training that no longer helps evaluation is an evaluation plateau."""
    rng = np.random.default_rng(8)
    evaluations = {
        step: max(2.0 - step / 2000, 1.0) * (1 + 0.005 * rng.normal()) for step in range(0, 8000, 200)
    }
    assert "eval_plateau" in firing(run(noisy(power_law(0.3), 8000, 0.02, 8), evaluations))
