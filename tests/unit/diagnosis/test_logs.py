"""Causes from a log alone: loss, learning rate and evaluation name what they can, and say what else it would take."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.report.outcome import Outcome
from stallwatch.detector.report.replay import replay
from support.training_logs import log_of

SIZE = 2000
STEPS = np.arange(SIZE)


def falling(steps: np.ndarray) -> np.ndarray:
    """A power law from 5 to 1.2."""
    return 1 + 4 * (1 + steps / 20) ** -0.7


def noisy(loss: np.ndarray, deviation: float = 0.02, seed: int = 1) -> np.ndarray:
    """With the noise of batches."""
    return loss + np.random.default_rng(seed).normal(0, deviation, loss.size)


def explained(outcome: Outcome) -> Finding:
    """The latest verdict that causes were given to."""
    found = [
        each
        for each in outcome.findings
        if each.kind in ("plateau", "slow_convergence", "oscillation", "divergence")
    ]
    assert found
    return found[-1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rate_cut_while_the_loss_was_falling(seed):
    """A thousandth of the rate from step 200 on, and nothing since."""
    loss = falling(np.minimum(STEPS, 200))
    rate = np.where(STEPS < 200, 1e-2, 1e-5)
    found = explained(replay(log_of(noisy(loss, seed=seed), learning_rate=rate)))
    assert found.evidence["cause"] == "lr_too_low"
    assert "before the rate was cut at step 200" in " ".join(each.reason for each in found.causes)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_cut_that_the_loss_made_use_of_is_none(seed):
    """The usual step schedule: flat at a constant rate, a drop at the cut, flat again."""
    loss = np.where(STEPS < 800, falling(STEPS * 4), 0.55)
    rate = np.where(STEPS < 800, 1e-1, 1e-2)
    found = explained(replay(log_of(noisy(loss, seed=seed), learning_rate=rate)))
    assert found.evidence["cause"] != "lr_too_low"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_end_of_a_cosine_is_benign(seed):
    """The rate has come down to nothing, as planned, and evaluation is as flat."""
    share = STEPS / SIZE
    rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * share)) + 1e-9
    loss = falling(np.minimum(STEPS, 1600) * 3)
    held_out = noisy(falling(np.minimum(STEPS[::50], 1600) * 3), 0.01)
    outcome = replay(log_of(noisy(loss, seed=seed), learning_rate=rate, evaluation_loss=held_out))
    causes = [each.causes[0].kind for each in outcome.findings if each.causes]
    assert set(causes[-1:]) <= {"noise_floor", "capacity_limit"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rate_that_was_raised(seed):
    """Ten times the rate from step 600 on: the loss is higher since, and swings."""
    loss = np.where(STEPS < 600, falling(STEPS), 2.0)
    deviation = np.where(STEPS < 600, 0.02, 0.3)
    rate = np.where(STEPS < 600, 1e-3, 1e-2)
    noise = np.random.default_rng(seed).normal(0, 1, SIZE) * deviation
    found = explained(replay(log_of(loss + noise, learning_rate=rate)))
    assert found.evidence["cause"] == "lr_too_high"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_restart_that_lost_something(seed):
    """Steps go back by 100, and the loss is not what it was there."""
    steps = np.concatenate([np.arange(1000), np.arange(900, 1500)])
    loss = np.concatenate([falling(np.arange(1000)), falling(np.arange(600) + 30)])
    outcome = replay(log_of(noisy(loss, seed=seed), step=steps))
    assert any(each.kind == "restart_regression" for each in outcome.findings)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_restart_that_repeats_what_was_there_is_in_order(seed):
    """Steps go back by 100, and the loss with them."""
    steps = np.concatenate([np.arange(1000), np.arange(900, 1500)])
    outcome = replay(log_of(noisy(falling(steps), seed=seed), step=steps))
    assert not any(each.kind == "restart_regression" for each in outcome.findings)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_jump_that_nothing_explains(seed):
    """The loss rises at once at step 600, at a constant rate, and stays."""
    loss = falling(STEPS) + np.where(STEPS < 600, 0.0, 0.9)
    rate = np.full(SIZE, 1e-3)
    found = explained(replay(log_of(noisy(loss, seed=seed), learning_rate=rate)))
    assert found.causes[0].kind == "distribution_shift"


def test_what_is_missing_is_said():
    """A flat loss and nothing else: no cause, and what would decide."""
    found = explained(replay(log_of(noisy(falling(np.minimum(STEPS, 600))))))
    assert found.evidence["cause"] == "not determined"
    needed = found.evidence["to_decide"]
    assert isinstance(needed, tuple)
    assert "run with the agent" in str(needed[0])
    assert any("run with the agent" in each for each in found.advice)
