"""batch_too_small: the noise of the steps keeps the loss up."""

from __future__ import annotations

from dataclasses import replace

from support.vitals import first, level, noise, score, vitals


def seen(optimizer: str = "SGD", *, batch: float = 2.0, power: float = 0.6, **changes):
    """A run whose single step could change the loss by `power` of itself."""
    found = vitals(
        optimizer,
        gradient_norm=level(2.0),
        update_ratio=level(power / 2.0 / 20.0),
        loss={"noise": 0.6, **changes.pop("loss", {})},
        **changes,
    )
    return replace(found, effective_batch=batch, noise=noise(50 * batch, batch))


def test_two_samples_a_step_at_a_large_rate():
    """The noise scale is fifty times the batch, and steps are worth a good share of the loss."""
    assert first(seen()) == "batch_too_small"


def test_at_the_noise_floor_steps_are_worth_little():
    """All is noise there as well, but it does not keep the loss up."""
    calm = seen(batch=64.0, power=0.01, loss={"noise": 0.05})
    assert score("batch_too_small", calm) < 1.0
    assert first(calm) != "batch_too_small"


def test_a_gradient_that_points_somewhere_needs_no_larger_batch():
    """Longer steps would do."""
    assert score("batch_too_small", seen(alignment_mean=0.3)) < score("batch_too_small", seen())


def test_after_a_raise_of_the_rate_it_is_the_rate():
    """The batch was large enough before."""
    raised = {"now": 3e-2, "peak": 3e-2, "raised_at": 490, "raised_from": 1e-3}
    assert first(seen(rate=raised, loss={"rise": 0.4, "rise_sigma": 10.0, "noise": 0.6})) == "lr_too_high"
