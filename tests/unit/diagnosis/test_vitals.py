"""The state of health: what is gathered from steps, samples, directions, named losses, events and restarts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stallwatch.detector.core.inputs import LossKind, Parallelism
from stallwatch.detector.core.observations import (
    AttemptObservation,
    EvaluationObservation,
    EventObservation,
    NamedLossObservation,
    StepObservation,
)
from stallwatch.detector.core.sampled import DirectionObservation, SampledObservation
from stallwatch.detector.engine.snapshot import decode_part, encode_part
from stallwatch.detector.signals.vitals import VitalsSignal

BLOCKS = tuple(f"layer{index}.weight" for index in range(8))


def step(number: int, loss: float = 1.0, rate: float = 0.1, **fields) -> StepObservation:
    """One step of two ranks."""
    two = np.ones(2)
    given = {
        "gradient_scale": two,
        "input_fingerprint": np.array([number, number + 1_000_000]),
        "micro_batches": np.ones(2, np.int64),
        **fields,
    }
    return StepObservation(
        step=number,
        attempt=0,
        world_size=2,
        ranks=(0, 1),
        loss_sum=two * loss * 8,
        samples=two * 8,
        learning_rates=(rate,),
        step_seconds=two,
        input_seconds=two,
        forward_seconds=two,
        backward_seconds=two,
        sync_seconds=two,
        optimizer_seconds=two,
        ddp_iterations=np.full(2, number),
        collectives=np.full(2, number),
        gradient_fingerprint=np.full(2, -1),
        **given,
    )


def sample(number: int, **fields) -> SampledObservation:
    """One sampled step of two ranks, whose blocks have gradient 2, weight 10 and update 0.01 in norm."""

    def blocks(norm: float) -> np.ndarray:
        return np.full((2, len(BLOCKS)), norm**2)

    given = {
        "gradient_squares": blocks(2.0),
        "parameter_squares": blocks(10.0),
        "update_squares": blocks(0.01),
        **fields,
    }
    return SampledObservation(
        step=number,
        attempt=0,
        world_size=2,
        ranks=(0, 1),
        parallelism=Parallelism.DATA_PARALLEL,
        blocks=BLOCKS,
        gradient_fingerprints=np.zeros((0, 8), np.uint64),
        gradient_ranks=(),
        parameter_fingerprints=np.zeros((0, 8), np.uint64),
        parameter_ranks=(),
        local_gradient_square=np.full(2, 64.0),
        reduced_gradient_square=np.full(2, 32.0),
        update_square=np.full(2, 8e-4),
        parameter_square=np.full(2, 800.0),
        samples=np.full(2, 8.0),
        optimizer_state_step=np.full(2, number),
        buffer_fingerprint=np.zeros(2, np.uint64),
        non_finite_blocks=((), ()),
        **given,
    )


def test_optimization_in_numbers():
    """Norms and ratios are those of the whole model, one replica's."""
    signal = VitalsSignal()
    for number in range(0, 64, 8):
        signal.update(step(number))
        signal.update(sample(number, weight_decay=0.1, decoupled_weight_decay=True))
    seen = signal.vitals().optimization
    assert seen.weight_norm.now == pytest.approx(math.sqrt(800))
    assert seen.update_ratio.now == pytest.approx(1e-3)
    assert seen.gradient_norm.ratio == pytest.approx(1.0)
    assert seen.depth_ratio.now == pytest.approx(1.0)
    assert seen.decay_share.now == pytest.approx(0.1 * math.sqrt(800) / (math.sqrt(8e-4) / 0.1))
    assert seen.still_blocks == ()


def test_blocks_that_stand_still_are_named():
    """A block whose update is exactly zero, sample after sample, while others move."""
    update = np.full((2, len(BLOCKS)), 1e-4)
    update[:, 2] = 0.0
    signal = VitalsSignal()
    for number in range(8, 48, 8):
        signal.update(sample(number, update_squares=update))
    seen = signal.vitals().optimization
    assert seen.still_blocks == ("layer2.weight",)
    assert seen.still_with_gradient == ("layer2.weight",)
    assert seen.still_share == pytest.approx(1 / 8)
    assert seen.still_since == 8


def test_a_step_that_moved_nothing_says_nothing_of_parts():
    """A scaler may skip a step: no block stands still for that."""
    signal = VitalsSignal()
    for number in range(0, 48, 8):
        signal.update(sample(number, update_squares=np.zeros((2, len(BLOCKS)))))
    assert signal.vitals().optimization.still_blocks == ()


def test_sharded_blocks_add_up():
    """Ranks of a sharded model hold parts, whose squares are summed."""
    signal = VitalsSignal()
    for number in (0, 8):
        observation = sample(number)
        signal.update(
            SampledObservation(
                **{
                    name: getattr(observation, name)
                    for name in SampledObservation.__dataclass_fields__
                    if name != "parallelism"
                },
                parallelism=Parallelism.SHARDED,
            )
        )
    assert signal.vitals().optimization.weight_norm.now == pytest.approx(math.sqrt(1600))


@pytest.mark.parametrize(
    ("factors", "share", "factor", "scale"),
    [
        ([1.0] * 64, 0.0, math.nan, 1.0),
        ([0.3, 0.45] * 32, 1.0, 0.375, 1.0),
        ([0.01 + 1e-5 * i for i in range(64)], 1.0, 0.0103, 1.0),
        ([2.0**-16] * 64, 0.0, math.nan, 65536.0),
        ([2.0**-16] * 32 + [2.0**-17] * 32, 0.0, math.nan, 131072.0),
        ([2.0**-16, 0.3 * 2.0**-16] * 32, 0.5, 0.3, 65536.0),
    ],
)
def test_clipping_and_loss_scales_are_told_apart(factors, share, factor, scale):
    """Clipping gives any factor, a loss scale a power of two; both may act together."""
    signal = VitalsSignal()
    for number, each in enumerate(factors):
        signal.update(step(number, gradient_scale=np.full(2, each)))
    seen = signal.vitals().scaling
    assert seen.clipped_share == pytest.approx(share, abs=0.05)
    assert seen.clip_factor == pytest.approx(factor, rel=0.05, nan_ok=True)
    assert seen.loss_scale == scale


def test_skipped_steps_are_backwards_without_a_step():
    """One in five steps took two backwards: one in six backwards had no step."""
    signal = VitalsSignal()
    for number in range(60):
        signal.update(step(number, micro_batches=np.full(2, 2 if number % 5 == 0 else 1)))
    assert signal.vitals().scaling.skipped_share == pytest.approx(1 / 6)


def test_directions_have_a_mean_and_an_error():
    """The latest sixteen cosines."""
    signal = VitalsSignal()
    for number in range(40):
        signal.update(DirectionObservation(number, 0, 0.2 + 0.1 * (-1) ** number, 0.5))
    seen = signal.vitals().optimization
    assert seen.alignment_mean == pytest.approx(0.2)
    assert 0.01 < seen.alignment_error < 0.05
    assert seen.agreement.now == 0.5


def test_groups_and_components_have_levels_and_shares():
    """Of a group, its share of the samples; of a component, its share of the sum."""
    signal = VitalsSignal()
    for number in range(64):
        signal.update(NamedLossObservation(number, LossKind.GROUP, "cat", 3.0, 2.0))
        signal.update(NamedLossObservation(number, LossKind.GROUP, "dog", 1.0 - number / 100, 6.0))
        signal.update(NamedLossObservation(number, LossKind.COMPONENT, "kl", 0.5, 8.0))
    vitals = signal.vitals()
    cat, dog = vitals.groups
    assert (cat.name, cat.level, cat.share) == ("cat", 3.0, 0.25)
    assert dog.slope < -0.4
    assert abs(cat.slope) < 1e-9
    (component,) = vitals.components
    assert component.share == 1.0


def test_evaluations_and_events_are_kept():
    """The evaluation loss as a series, events as they came."""
    signal = VitalsSignal()
    signal.update(EventObservation(3, "mixup", "augmentation on"))
    for number in range(10):
        signal.update(EvaluationObservation(number, 2.0 - number / 10, 100.0, {"accuracy": number / 10}))
    vitals = signal.vitals()
    assert vitals.evaluation is not None
    assert vitals.evaluation.slope < 0
    assert [each.name for each in vitals.metrics] == ["accuracy"]
    assert vitals.events[0].kind == "mixup"


def test_a_restart_that_steps_back_shows_both_levels():
    """Losses before and after, and the optimizer's own count."""
    signal = VitalsSignal()
    rng = np.random.default_rng(0)
    for number in range(64):
        signal.update(step(number, loss=1.0 + 0.01 * rng.normal()))
        signal.update(sample(number))
    signal.update(AttemptObservation(40, 1, 2))
    for number in range(40, 80):
        signal.update(step(number, loss=2.0 + 0.01 * rng.normal()))
        signal.update(sample(number))
    (restart,) = signal.vitals().restarts
    assert (restart.step, restart.attempt) == (40, 1)
    assert restart.loss_before == pytest.approx(1.0, abs=0.02)
    assert restart.loss_after == pytest.approx(2.0, abs=0.02)
    assert restart.state_step_before == 63


def test_a_jump_of_the_loss_is_dated():
    """A level that shifts at once is found at its step; a steady trend is none."""
    rng = np.random.default_rng(1)
    signal = VitalsSignal()
    for number in range(300):
        level = 1.0 if number < 150 else 1.6
        signal.update(step(number, loss=level + 0.02 * rng.normal()))
    (shift,) = signal.vitals().shifts
    assert abs(shift.step - 150) <= 2
    assert shift.after - shift.before == pytest.approx(0.6, abs=0.05)
    falling = VitalsSignal()
    for number in range(300):
        falling.update(step(number, loss=3.0 - number / 100 + 0.02 * rng.normal()))
    assert falling.vitals().shifts == ()


def test_inputs_that_come_again_have_a_period():
    """The same thirty batches in the same order, again and again."""
    signal = VitalsSignal()
    for number in range(120):
        signal.update(step(number, input_fingerprint=np.full(2, 7 + number % 30)))
    assert signal.vitals().data.period_steps == 30
    fresh = VitalsSignal()
    for number in range(120):
        fresh.update(step(number))
    assert math.isnan(fresh.vitals().data.period_steps)
    assert fresh.vitals().data.distinct_share == 1.0


def test_a_jump_of_the_learning_rate_is_remembered():
    """When, and what it was before."""
    signal = VitalsSignal()
    for number in range(50):
        signal.update(step(number, rate=0.1 if number < 30 else 0.001))
    rate = signal.vitals().rate
    assert (rate.now, rate.peak, rate.since, rate.before) == (0.001, 0.1, 30, 0.1)
    assert rate.ratio == pytest.approx(0.01)


def test_memory_is_bounded_and_survives_a_snapshot():
    """However long the run, the state stays small; restored, it says the same."""
    signal = VitalsSignal()
    for number in range(20_000):
        signal.update(step(number, loss=1.0 + number % 7))
        if number % 16 == 0:
            signal.update(sample(number))
            signal.update(DirectionObservation(number, 0, 0.1, 0.2))
        signal.update(NamedLossObservation(number, LossKind.GROUP, f"group{number % 500}", 3.0, 2.0))
    data = encode_part(signal)
    assert len(data) < 400_000
    again = decode_part(data, VitalsSignal())
    assert encode_part(again) == data
    assert repr(again.vitals()) == repr(signal.vitals())
