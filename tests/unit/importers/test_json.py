"""Logs in JSON: lines, arrays, a Trainer's state, a Keras history."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from stallwatch.detector.importers import LogError, NotALogError, TrainingLog, find_logs


def read(path: Path) -> TrainingLog:
    (log,) = find_logs(path)[0].read()
    return log


def lines(path: Path, *records: dict[str, object]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz", "run.log", "run.json"])
def test_one_object_a_line(tmp_path: Path, name: str):
    """The name does not matter: the first line says what it is."""
    log = read(lines(tmp_path / name, {"step": 1, "loss": 3.5}, {"step": 2, "loss": 2.5, "lr": 0.1}))
    assert (log.step.tolist(), log.loss.tolist(), log.name) == ([1, 2], [3.5, 2.5], "run")


def test_nested_and_dotted_keys_are_the_same(tmp_path: Path):
    """`train.loss`, `train/loss` and a loss within `train` are one column."""
    log = read(lines(tmp_path / "run.jsonl", {"step": 1, "train": {"loss": 3}, "val": {"loss": 4}}))
    assert (log.loss.tolist(), log.evaluations.loss.tolist()) == ([3], [4])


def test_the_history_that_wandb_exports(tmp_path: Path):
    """`_step` counts, `_timestamp` tells the time, text and media are of no interest."""
    log = read(
        lines(
            tmp_path / "history.jsonl",
            {
                "_step": 0,
                "_timestamp": 1.7e9,
                "_runtime": 1,
                "train/loss": 3,
                "sample": {"_type": "image-file"},
            },
            {"_step": 5, "_timestamp": 1.7e9 + 60, "_runtime": 61, "train/loss": "NaN", "note": "text"},
            {"_step": 5, "_timestamp": 1.7e9 + 60, "_runtime": 61, "eval/loss": 2.5, "train/loss": None},
        )
    )
    assert log.step.tolist() == [0, 5]
    assert math.isnan(log.loss[1])
    assert log.wall_time[1] - log.wall_time[0] == 60
    assert log.evaluations.loss.tolist() == [2.5]
    assert log.name == tmp_path.name


def test_a_last_line_that_was_being_written_is_left_out(tmp_path: Path):
    """A job killed in the middle of a line spoils only that line."""
    path = lines(tmp_path / "run.jsonl", {"step": 1, "loss": 3}, {"step": 2, "loss": 2})
    path.write_text(path.read_text() + '{"step": 3, "lo')
    assert read(path).step.tolist() == [1, 2]


def test_a_broken_line_in_the_middle_is_left_out_and_counted(tmp_path: Path):
    """Unless most lines are broken: then its number leads to the first."""
    path = tmp_path / "run.jsonl"
    path.write_text('{"step": 1, "loss": 3}\nTraceback\n{"step": 2, "loss": 2}\n')
    log = read(path)
    assert log.loss.tolist() == [3, 2]
    assert log.notes[0] == "1 line is no JSON object, the first of them line 2, and left out."
    path.write_text('{"step": 1, "loss": 3}\nTraceback\nof\nwhat\n')
    with pytest.raises(LogError, match=r"run\.jsonl: line 2 is not a JSON object"):
        read(path)


def test_text_for_a_number_names_line_and_key(tmp_path: Path):
    """The message leads to the value."""
    path = lines(tmp_path / "run.jsonl", {"step": 1, "loss": 3}, {"step": 2, "loss": "high"})
    with pytest.raises(LogError, match="line 2, key 'loss': 'high' is not a number"):
        read(path)


def test_an_array_of_objects(tmp_path: Path):
    """Some write the whole log at once."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps([{"epoch": 1, "loss": 3}, {"epoch": 2, "loss": float("nan")}], indent=2))
    log = read(path)
    assert (log.axis, log.step.tolist()) == ("epoch", [1, 2])
    assert math.isnan(log.loss[1])


def test_a_trainer_state_without_its_summary(tmp_path: Path):
    """Hugging Face's closing record holds the mean loss of the whole run: no point of the curve."""
    path = tmp_path / "trainer_state.json"
    history = [
        {"epoch": 0.1, "learning_rate": 5e-5, "loss": 3.0, "grad_norm": 1.5, "step": 10},
        {"epoch": 0.2, "learning_rate": 4e-5, "loss": 2.0, "grad_norm": 1.25, "step": 20},
        {"epoch": 0.2, "eval_loss": 2.2, "eval_accuracy": 0.5, "eval_runtime": 3.0, "step": 20},
        {"epoch": 0.2, "step": 20, "total_flos": 1e15, "train_loss": 2.5, "train_runtime": 60.0},
    ]
    path.write_text(json.dumps({"best_metric": None, "global_step": 20, "log_history": history}, indent=2))
    log = read(path)
    assert (log.step.tolist(), log.loss.tolist(), log.gradient_norm.tolist()) == (
        [10, 20],
        [3.0, 2.0],
        [1.5, 1.25],
    )
    assert log.evaluations.metrics["eval_accuracy"].tolist() == [0.5]
    assert log.name == tmp_path.name


def test_of_a_trainers_checkpoints_the_longest_history_is_read(tmp_path: Path):
    """Each checkpoint repeats the history of those before it."""
    history = [{"step": step, "loss": 3.0 - step / 100} for step in range(10, 50, 10)]
    for step in (10, 40):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history[: step // 10]}))
    (source,) = find_logs(tmp_path)
    assert source.path.parent.name == "checkpoint-40"


@pytest.mark.parametrize(
    "content",
    [
        {"loss": [3, 2, 1], "val_loss": [4, 3, 2]},
        {"history": {"loss": [3, 2, 1], "val_loss": [4, 3, 2]}},
        {"loss": {"0": 3, "1": 2, "2": 1}, "val_loss": {"0": 4, "1": 3, "2": 2}},
    ],
)
def test_a_keras_history(tmp_path: Path, content: dict[str, object]):
    """One value an epoch, as Keras or pandas writes it."""
    path = tmp_path / "history.json"
    path.write_text(json.dumps(content))
    log = read(path)
    assert (log.axis, log.step.tolist()) == ("epoch", [0, 1, 2])
    assert (log.loss.tolist(), log.evaluations.loss.tolist()) == ([3, 2, 1], [4, 3, 2])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("config.json", '{"layers": 3}', "not a training log of a known kind"),
        ("broken.json", '{"loss": [1, 2', "not valid JSON"),
        ("broken.json", '[{"loss": 1},', "not valid JSON"),
        ("names.json", '{"names": ["a", "b"]}', "no key is a loss; name it with --loss"),
        ("trainer_state.json", "{}", "no list 'log_history'"),
        ("trainer_state.json", '{"log_history": []}', "'log_history' is empty"),
        (
            "run.jsonl",
            '{"step": 1, "reward": 2}\n',
            r"no key is a loss; name it with --loss \(keys: step, reward\)",
        ),
    ],
)
def test_json_that_is_no_log_says_why(tmp_path: Path, name: str, text: str, says: str):
    """One clear sentence that names the file."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LogError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_file_of_settings_is_no_log_rather_than_a_broken_one(tmp_path: Path):
    """In a folder it is passed over without a word."""
    path = tmp_path / "config.json"
    path.write_text('{"layers": 3}')
    with pytest.raises(NotALogError):
        read(path)


@pytest.mark.parametrize("name", ["trainer_state.json", "run.jsonl", "history.json", "records.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"log_history": [' + '{"a":' * 100_000])
def test_what_is_nested_too_deeply_is_refused(tmp_path: Path, name: str, text: str):
    """A JSON reader gives up on it; found by fuzzing."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LogError):
        find_logs(path)[0].read()
