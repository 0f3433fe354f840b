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


@pytest.mark.parametrize(
    "name", ["tutorial_epoch_step", "loguru", "torchvision_reference", "fairseq_simple", "sklearn_verbose"]
)
def test_runs_one_after_the_other_are_told_apart(tmp_path: Path, name: str):
    """Where counters and loss both go back to the beginning, another run begins."""
    truth = LAYOUTS[name]()
    path = tmp_path / "train.log"
    path.write_text(truth.text + truth.text, encoding="utf-8", newline="")
    logs = find_logs(path)[0].read()
    assert [log.loss.size for log in logs] == [truth.points, truth.points]
    assert [log.evaluations.step.size for log in logs] == [truth.evaluations, truth.evaluations]
    assert "2 runs one after the other" in " ".join(logs[1].notes)


def test_a_job_that_was_resumed_is_one_run(tmp_path: Path):
    """It goes back to a checkpoint, and the loss goes on from there."""
    lines = LAYOUTS["sklearn_verbose"]().text.splitlines()
    log = read(tmp_path, "\n".join(lines[:30] + lines[20:]) + "\n")
    assert log.step.tolist() == [*range(1, 31), *range(21, 41)]


@pytest.mark.parametrize("seed", range(4))
def test_ranks_that_do_not_say_who_they_are(tmp_path: Path, seed: int):
    """Each step is there several times, and not in order: the first of each counts."""
    random = np.random.default_rng(seed)
    printed = [
        (step + random.random() * 1.2, f"iter {step * 10} loss {loss_at(step) + rank / 100:.4f}")
        for step in range(40)
        for rank in range(4)
    ]
    log = read(tmp_path, "\n".join(line for _, line in sorted(printed)) + "\n")
    assert log.step.tolist() == [10 * step for step in range(40)]
    assert "4 times each" in log.notes[0]


def test_torn_lines_cost_only_themselves(tmp_path: Path):
    """Cut off in the middle, two in one, and the last one that was being written."""
    lines = LAYOUTS["loguru"]().text.splitlines()
    lines[10], lines[20], lines[-1] = lines[10][:70], lines[20][:60] + lines[25], lines[-1][:88]
    log = read(tmp_path, "\n".join(lines))
    assert 36 <= log.loss.size <= 40
    assert set(log.loss.round(4).tolist()) <= {loss_at(index) for index in range(40)}


def test_what_the_user_names_has_to_be_there(tmp_path: Path):
    """By its name or by the name without notation; a typing error names what there is."""
    text = LAYOUTS["loguru"]().text
    assert read(tmp_path, text, loss="LOSS", step="Step").loss[0] == loss_at(0)
    with pytest.raises(
        LogError, match=r"key 'los' \(--loss\) is not there; there are: loss, lr, epoch, step"
    ):
        read(tmp_path, text, loss="los")


def test_two_networks_against_each_other_are_no_sum(tmp_path: Path):
    """The user has to say which of them is judged."""
    text = "".join(f"iter {step} D_loss: 0.5 G_loss: 2.{step}\n" for step in range(9))
    with pytest.raises(
        LogError, match=r"more than one key may be the loss \(D_loss, G_loss\): choose one with --loss"
    ):
        read(tmp_path, text)
    assert read(tmp_path, text, loss="G_loss").loss[1] == 2.1


def test_a_bar_that_is_drawn_again_counts_once(tmp_path: Path):
    """At its end, with the validation, and at the beginning of the next epoch, with the loss of the one before."""
    text = ""
    for index in range(40):
        epoch, done = index // 10, index % 10 * 10 + 10
        loss = f"loss={loss_at(index):.4f}"
        if index and done == 10:
            text += f"\rEpoch {epoch}:   0%|          | 0/100 [00:00<?, ?it/s, loss={loss_at(index - 1):.4f}]"
        text += (
            f"\rEpoch {epoch}: {done:3d}%|{'#' * (done // 10):<10}| {done}/100 [00:01<00:09, 9.9it/s, {loss}]"
        )
        if done == 100:
            text += (
                f"\rEpoch {epoch}: 100%|##########| 100/100 [00:11<00:00, 9.9it/s, {loss}, val_loss=2.5]\n"
            )
    log = read(tmp_path, text)
    assert log.step.tolist() == [10 * (index + 1) for index in range(40)]
    assert log.loss == pytest.approx([loss_at(index) for index in range(40)])
    assert log.evaluations.step.tolist() == [100, 200, 300, 400]
