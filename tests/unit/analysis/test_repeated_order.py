"""Epochs in one and the same order: found by inputs, or behind augmentation by the loss; and replays that are none."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.checks.repeated_order import RepeatedOrder
from support.simulation import Job, analyze, kinds, one, play, restarted


def replayed(period, since=0):
    """From a step on, inputs are those of the epoch before."""

    def fault(columns):
        for row in np.flatnonzero(columns.step >= since + period):
            columns.input_fingerprint[row] = columns.input_fingerprint[row - period]

    return fault


def echoing(period, share=0.7):
    """The noise of the loss is for the most part that of the epoch before, inputs are augmented."""

    def fault(columns):
        rng = np.random.default_rng(3)
        own = 0.05 * rng.standard_normal(columns.loss_sum.shape)
        order = 0.05 * rng.standard_normal((period, columns.loss_sum.shape[1]))
        noise = np.sqrt(share) * order[columns.step % period] + np.sqrt(1 - share) * own
        columns.loss_sum[:] = 8 * (2 + 1 / (1 + columns.step[:, None] / 100)) * np.exp(noise)

    return fault


@pytest.mark.parametrize("period", [4, 20, 150])
def test_a_replayed_order_is_found_within_three_epochs(period):
    """The period is the epoch's length, and the onset its second epoch."""
    job = Job(steps=4 * period + 40, faults=(replayed(period),), batch_steps=20, sample_period=0)
    analysis = analyze(job)
    finding = one(analysis, "repeated_order")
    assert finding.severity == "info"
    assert finding.evidence["period_steps"] == period
    assert finding.since_step == period
    assert finding.detected_step <= 3 * period + 9
    assert kinds(analysis) == {"repeated_order"}


def test_a_declared_epoch_is_known_after_two():
    """Where the distance is that of an epoch, one replay is enough."""
    job = Job(steps=160, faults=(replayed(40),), dataset_size=40 * 32, sample_period=0)
    assert one(analyze(job), "repeated_order").detected_step <= 81


@pytest.mark.suite
def test_long_epochs_are_found_in_bounded_memory():
    """An epoch of 2,500 steps, of which a part is remembered."""
    period = 2500
    job = Job(ranks=2, steps=3 * period + 100, faults=(replayed(period),), batch_steps=250, sample_period=0)
    analysis = analyze(job)
    finding = one(analysis, "repeated_order")
    assert finding.evidence["period_steps"] == period
    assert abs(finding.since_step - period) <= 64
    check = analysis.pipeline.checks["repeated_order"]
    assert isinstance(check, RepeatedOrder)
    assert len(check.recurrence.last) <= 1024


def test_behind_augmentation_the_loss_tells():
    """Changes of the loss correlate with those one epoch earlier, and at no other distance."""
    analysis = analyze(Job(steps=900, faults=(echoing(60),), batch_steps=20, sample_period=0))
    finding = one(analysis, "repeated_order")
    assert finding.evidence["decided_by"] == "loss"
    assert finding.evidence["period_steps"] == 60
    assert finding.evidence["correlation"] == pytest.approx(0.7, abs=0.1)


def waves(columns):
    """The loss follows a schedule that repeats every 80 steps."""
    columns.loss_sum[:] *= 1 + 0.2 * np.sin(2 * np.pi * columns.step[:, None] / 80)


def tasks(columns):
    """Six tasks take turns."""
    columns.loss_sum[:] *= np.array([1.0, 2.0, 0.7, 1.4, 0.5, 1.1])[columns.step % 6][:, None]


def short_batches(columns):
    """Each epoch of 50 steps ends in a small, noisy batch."""
    columns.loss_sum[columns.step % 50 == 49] *= 1.5


def constant(columns):
    """One input, again and again."""
    columns.input_fingerprint[:] = 99


@pytest.mark.parametrize("fault", [waves, tasks, short_batches, constant, replayed(1), replayed(3)])
def test_what_recurs_in_order_is_not_called(fault):
    """Schedules, alternating tasks, small last batches, full-batch and dummy inputs are no repeated order."""
    assert not kinds(analyze(Job(steps=900, faults=(fault,), batch_steps=20, sample_period=0)))


def test_a_run_that_goes_back_once_is_not_called():
    """What is replayed after an earlier state was restored within the process lasts as long as the way back."""

    def back(columns):
        rows = (columns.step >= 100) & (columns.step < 150)
        columns.input_fingerprint[rows] = columns.input_fingerprint[50:100]

    assert not kinds(analyze(Job(steps=300, faults=(back,), sample_period=0)))


def test_a_restart_replays_what_came_after_its_checkpoint():
    """Another attempt with the same inputs, three times over, is no repeated order."""
    job = Job(steps=50, sample_period=0)
    analysis = analyze(job)
    now = 1_700_000_100.0
    for _ in range(3):
        job = restarted(job)
        now = play(analysis, job, now + 10)
    assert "repeated_order" not in kinds(analysis)
