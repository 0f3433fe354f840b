"""Which axis a log is read on, and which series is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from stallwatch.detector.importers import TrainingLog, find_logs


def read(folder: Path, text: str) -> TrainingLog:
    path = folder / "run.csv"
    path.write_text(text)
    (log,) = find_logs(path)[0].read()
    return log


@pytest.mark.parametrize(
    ("text", "axis", "steps"),
    [
        ("step,epoch,loss\n10,0,3\n20,0,2\n30,1,1\n", "step", [10, 20, 30]),
        ("epoch,loss\n1,3\n2,2\n3,1\n", "epoch", [1, 2, 3]),
        ("step,epoch,loss\n0,1,3\n0,2,2\n0,3,1\n", "epoch", [1, 2, 3]),
        ("step,epoch,loss\n,0.5,3\n,1,2\n,1.5,1\n", "epoch", [0.5, 1, 1.5]),
        ("loss\n3\n2\n1\n", "step", [0, 1, 2]),
        ("step,loss\n7,3\n", "step", [7]),
        ("step,epoch,loss\ninf,0,4\n10,1,3\n20,1,2\n", "step", [10, 10, 20]),
        ("step,loss\n10,4\ninf,3\n-inf,2\n20,1\n", "step", [10, 10, 10, 20]),
        ("epoch,loss\n-inf,4\n1,3\ninf,2\n2,1\n", "epoch", [1, 1, 1, 2]),
    ],
)
def test_steps_before_epochs_before_records(tmp_path: Path, text: str, axis: str, steps: list[float]):
    """A step column that moves is the axis; else the epoch; else the records are counted."""
    log = read(tmp_path, text)
    assert (log.axis, log.step.tolist()) == (axis, steps)


def test_steps_that_start_again_in_each_epoch_are_counted_through(tmp_path: Path):
    """A step within the epoch is no place in the run."""
    log = read(tmp_path, "epoch,step,loss\n0,0,6\n0,10,5\n0,20,4\n1,0,3\n1,10,2\n1,20,1\n2,0,1\n")
    assert log.step.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert "starts again in each epoch" in log.notes[0]


def test_a_restart_is_noted_and_left_as_it_is(tmp_path: Path):
    """Steps that go back without a new epoch are a job that was resumed."""
    log = read(tmp_path, "step,loss\n0,6\n10,5\n20,4\n10,5\n20,4\n30,3\n")
    assert log.step.tolist() == [0, 10, 20, 10, 20, 30]
    assert log.notes == ("Column 'step' goes back once, first from 20 to 10: a restart.",)


def test_without_a_training_loss_the_evaluation_loss_is_judged(tmp_path: Path):
    """Some logs hold nothing else."""
    log = read(tmp_path, "step,lr,val_loss\n0,0.1,3\n10,0.2,2\n")
    assert log.judged == "eval_loss"
    assert log.points.loss.tolist() == [3, 2]
    assert log.points.learning_rate.tolist() == [0.1, 0.2]
    assert log.judged_column == "val_loss"


def test_an_evaluation_loss_that_was_logged_as_nan_is_kept(tmp_path: Path):
    """A row with a metric alone is no point of the loss; one with NaN is."""
    log = read(tmp_path, "step,val_loss,val_acc\n0,3,0.1\n10,,0.2\n20,nan,0.3\n")
    assert log.points.step.tolist() == [0, 20]
    assert log.evaluations.metrics["val_acc"].tolist() == [0.1, 0.2, 0.3]


def test_a_training_loss_of_the_warm_up_only_gives_way_to_the_evaluation_loss(tmp_path: Path):
    """A series that ends where the run has hardly begun is not what the run is judged by."""
    rows = [f"{step},{5 - step / 100},\n" for step in range(20)]
    rows += [f"{step},,{5 - step / 500}\n" for step in range(100, 2000, 100)]
    log = read(tmp_path, "step,loss,eval_loss\n" + "".join(rows))
    assert log.judged == "eval_loss"
    assert "--loss loss to insist" in log.notes[-1]


def test_metrics_beside_the_training_loss_are_not_about_held_out_data(tmp_path: Path):
    """Keras logs `accuracy` of the training and `val_accuracy` of the validation data in one row."""
    log = read(tmp_path, "epoch,loss,accuracy,val_loss,val_accuracy\n0,3,0.1,3,0.2\n1,2,0.3,2,0.4\n")
    assert list(log.evaluations.metrics) == ["val_accuracy"]
    alone = read(tmp_path, "step,loss,accuracy\n0,3,\n0,,0.2\n1,2,\n1,,0.4\n")
    assert list(alone.evaluations.metrics) == ["accuracy"]


def test_component_losses_are_kept_as_series_of_their_own(tmp_path: Path):
    """They stand beside the loss that is judged."""
    log = read(tmp_path, "step,loss,loss_box,loss_class\n0,3,1,2\n1,2,1,1\n")
    assert {name: series.value.tolist() for name, series in log.extra.items()} == {
        "loss_box": [1, 1],
        "loss_class": [2, 1],
    }
