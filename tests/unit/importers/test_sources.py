"""Finding logs in folders, W&B's chart exports, and what every format has in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from stallwatch.detector.importers import FORMATS, LogError, Selection, find_logs
from stallwatch.detector.importers.columns import learning_rate_candidates, plain

CHART = (
    '"Step","brisk-sun-1 - train/loss","brisk-sun-1 - train/loss__MIN","brisk-sun-1 - train/loss__MAX",'
    '"calm - sea - train/loss","calm - sea - train/loss__MIN","calm - sea - train/loss__MAX"\n'
    '"0","3","3","3","4","4","4"\n"10","2","2","2","","",""\n"20","1","1","1","2","2","2"\n'
)


def test_a_wandb_chart_export_holds_one_run_a_column(tmp_path: Path):
    """Runs of a chart come apart, each with its own points."""
    path = tmp_path / "wandb_export.csv"
    path.write_text(CHART)
    logs = find_logs(path)[0].read()
    assert [(log.name, log.step.tolist(), log.loss.tolist()) for log in logs] == [
        ("brisk-sun-1", [0, 10, 20], [3, 2, 1]),
        ("calm - sea", [0, 20], [4, 2]),
    ]


def test_folders_are_searched_for_all_kinds_of_logs(tmp_path: Path):
    """What is not a log by its name is not even opened; hidden folders are left alone."""
    for name in ("a.csv", "b.jsonl", "c.tsv.gz", "model.pt", "notes.txt", ".cache/d.csv", "deep/er/e.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("step,loss\n1,2\n")
    assert [source.path.relative_to(tmp_path).as_posix() for source in find_logs(tmp_path)] == [
        "a.csv",
        "b.jsonl",
        "c.tsv.gz",
        "deep/er/e.csv",
    ]


def test_nothing_to_read_is_said(tmp_path: Path):
    """A wrong path, an empty folder, and one with W&B's own files."""
    with pytest.raises(LogError, match="no such file or folder"):
        find_logs(tmp_path / "nowhere")
    with pytest.raises(LogError, match="no training logs in this folder"):
        find_logs(tmp_path)
    (tmp_path / "run-1.wandb").touch()
    with pytest.raises(LogError, match="must be exported"):
        find_logs(tmp_path)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The system's reason is handed on."""
    path = tmp_path / "run.csv"
    path.write_text("step,loss\n1,2\n")

    def refuse(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LogError, match=r"run\.csv: Permission denied"):
        find_logs(path)[0].read()


def test_progress_counts_the_bytes_of_the_file(tmp_path: Path):
    """The bar ends where the file ends."""
    path = tmp_path / "run.csv"
    path.write_text("step,loss\n" + "1,2\n" * 50_000)
    seen: list[int] = []
    find_logs(path)[0].read(Selection(), seen.append)
    assert sum(seen) >= path.stat().st_size


def test_formats_are_asked_from_the_pickiest_on():
    """Console text takes what no other format claims, so it comes last."""
    assert list(FORMATS) == [
        "tensorboard",
        "mlflow",
        "trainer_state",
        "jsonl",
        "keras",
        "wandb",
        "csv",
        "console",
    ]


@pytest.mark.parametrize(
    ("name", "simple"),
    [("Train/Loss", "train_loss"), ("train.loss", "train_loss"), ("valLoss", "val_loss"), ("_step", "_step")],
)
def test_names_are_compared_without_their_notation(name: str, simple: str):
    """Slashes, dots, spaces and capitals are taste."""
    assert plain(name) == simple


def test_learning_rates_of_parameter_groups_come_after_the_plain_one():
    """Lightning's monitor names them after the optimizer."""
    assert learning_rate_candidates(["lr-AdamW/pg1", "loss", "lr"]) == ["lr", "lr-AdamW/pg1"]


@pytest.mark.parametrize(
    ("header", "refused"),
    [
        ("a - _step,a ,a - loss,a - loss__MIN,a - loss__MAX", False),
        ("Step;a - loss__MIN;a - loss__MAX", True),
    ],
)
def test_an_export_with_another_header(tmp_path: Path, header: str, refused: bool):
    """Names with blanks around them, and no run at all; found by fuzzing."""
    path = tmp_path / "wandb_export.csv"
    path.write_text(f"{header}\n1,0,2,2,2\n2,0,1,1,1\n")
    if refused:
        with pytest.raises(LogError):
            find_logs(path)[0].read()
    else:
        assert [log.name for log in find_logs(path)[0].read()] == ["a"]
