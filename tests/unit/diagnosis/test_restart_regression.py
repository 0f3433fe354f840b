"""restart_regression: what was there before a restart is not there after it."""

from __future__ import annotations

from dataclasses import replace

from stallwatch.detector.core.vitals import Restart
from support.vitals import first, score, stands_alone, vitals, weighed

CLEAN = Restart(
    step=460,
    attempt=1,
    world_size=2,
    loss_before=1.0,
    loss_after=1.02,
    noise=0.05,
    state_step_before=496,
    state_step_after=460,
    loss_there=1.02,
    step_before=499,
    first_loss=5.0,
)


def after(**changes: object) -> dict[str, tuple[Restart, ...]]:
    """A restart with these differences."""
    return {"restarts": (replace(CLEAN, **changes),)}


def test_a_resume_that_repeats_steps_is_in_order():
    """The loss is what it was at these steps."""
    assert score("restart_regression", vitals(whole=after())) <= 0
    assert not stands_alone("restart_regression", vitals(whole=after()))


def test_a_lost_optimizer_state_decides():
    """Its count of steps begins anew while that of the run goes on, though the loss hardly shows it."""
    seen = vitals(whole=after(state_step_after=0))
    assert stands_alone("restart_regression", seen)
    assert "state_dict" in weighed("restart_regression", seen).advice[0]
    assert first(seen) == "restart_regression"


def test_a_job_from_scratch_has_no_state_to_lose():
    """Weights and state begin anew, and so do the steps."""
    fresh = after(step=0, state_step_after=0, loss_after=5.0, loss_there=5.0)
    assert not stands_alone("restart_regression", vitals(whole=fresh))


def test_weights_that_came_back_without_their_state():
    """Steps are counted by the state, and so begin anew with it; the loss says that the weights did not."""
    seen = vitals(whole=after(step=0, state_step_after=0, loss_after=1.1, loss_there=5.0))
    assert stands_alone("restart_regression", replace(seen, step=300))


def test_a_loss_above_what_it_was_there():
    """An older checkpoint: the loss is half as high again at the same steps."""
    seen = vitals(loss={"level": 1.5}, whole=after(loss_after=1.6))
    assert stands_alone("restart_regression", seen)
    assert first(seen) == "restart_regression"


def test_a_little_noise_is_none():
    """3 % above, and two standard errors."""
    assert score("restart_regression", vitals(whole=after(loss_after=1.05))) <= 0


def test_it_is_forgotten_when_the_run_has_come_as_far_again():
    """A restart at step 460 is not what holds the run up at step 3,000."""
    late = replace(vitals(whole=after(state_step_after=0)), step=3000)
    assert not stands_alone("restart_regression", late)


def test_a_job_that_always_goes_back_to_the_same_step():
    """Three restarts, and no checkpoint since the first."""
    stuck = tuple(replace(CLEAN, attempt=number, step_before=700) for number in (1, 2, 3))
    assert "no checkpoint" in weighed("restart_regression", vitals(whole={"restarts": stuck})).reason
