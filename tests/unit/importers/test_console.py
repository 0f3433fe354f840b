"""Console text: layouts of many programs, and what stands between their records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from stallwatch.detector.importers import LogError, Selection, TrainingLog, find_logs
from support.console_grammar import SPELLINGS, Spelling, write
from support.console_layouts import LAYOUTS, loss_at, rate_at


def read(folder: Path, text: str, **selection: str) -> TrainingLog:
    path = folder / "train.log"
    path.write_text(text, encoding="utf-8", newline="")
    (log,) = find_logs(path)[0].read(Selection(**selection))
    return log


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_log_is_read_whatever_its_layout(tmp_path: Path, name: str):
    """Positions, losses, rates and evaluations are those that were printed; nothing in the reader knows the layout."""
    truth = LAYOUTS[name]()
    log = read(tmp_path, truth.text)
    losses = truth.losses if truth.losses is not None else [loss_at(index) for index in range(truth.points)]
    assert log.points.loss == pytest.approx(np.array(losses))
    if truth.axis != "any":
        assert log.axis == truth.axis
        assert log.points.step == pytest.approx(truth.first + truth.stride * np.arange(truth.points))
    assert log.evaluations.step.size == truth.evaluations
    if truth.rated:
        rates = [rate_at(index) for index in range(truth.points)]
        assert log.learning_rate == pytest.approx(np.array(rates), rel=0.02)


def test_text_without_a_loss_says_what_was_found(tmp_path: Path):
    """The keys with an example, and the option that settles it."""
    with pytest.raises(
        LogError, match=r"name it with --loss \(keys with an example: step \(1\), reward \(2.5\)\)"
    ):
        read(tmp_path, "step=1 reward=2.5\nstep=2 reward=2.6\n")
    assert read(tmp_path, "step=1 reward=2.5\nstep=2 reward=2.6\n", loss="reward").loss.tolist() == [2.5, 2.6]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=SPELLINGS)
def test_spellings_combine_freely(tmp_path: Path, how: Spelling):
    """Whatever the prefix, separator, delimiter, counter and wrapper: steps, losses, rates and evaluations are exact."""
    truth = write(how)
    log = read(tmp_path, truth.text)
    assert log.axis == truth.axis
    assert log.step - log.step[0] == pytest.approx(np.array(truth.positions) - truth.positions[0])
    assert log.loss == pytest.approx(np.array(truth.losses), nan_ok=True)
    if truth.rates:
        assert log.learning_rate == pytest.approx(np.array(truth.rates), rel=1e-3)
    assert log.evaluations.step.size == truth.evaluations
