"""CSV and TSV logs."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest

from stallwatch.detector.importers import LogError, NotALogError, Selection, TrainingLog, delimited, find_logs


def read(path: Path, **selection: str) -> TrainingLog:
    (source,) = find_logs(path)
    (log,) = source.read(Selection(**selection))
    return log


def written(folder: Path, text: str, name: str = "run.csv") -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_training_and_evaluation_rows_with_empty_cells_are_two_series(tmp_path: Path):
    """An empty cell is no value, so rows of training and of evaluation come apart and keep their order."""
    log = read(
        written(
            tmp_path, "step,loss,lr,eval_loss,eval_acc\n0,3,0.1,,\n0,,,2.9,0.5\n10,2,0.05,,\n10,,,2.1,0.6\n"
        )
    )
    assert log.step.tolist() == [0, 10]
    assert log.loss.tolist() == [3, 2]
    assert log.learning_rate.tolist() == [0.1, 0.05]
    assert log.evaluations.loss.tolist() == [2.9, 2.1]
    assert log.evaluations.metrics["eval_acc"].tolist() == [0.5, 0.6]
    assert log.row.tolist() == [0, 2]
    assert log.evaluations.row.tolist() == [1, 3]
    assert (log.axis, log.judged, log.name) == ("step", "loss", "run")


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-inf"])
def test_literal_nan_and_inf_were_logged_by_the_source(tmp_path: Path, cell: str):
    """What the training wrote as not finite is kept, unlike an empty cell."""
    log = read(written(tmp_path, f"step,loss\n0,3\n1,{cell}\n2,\n3,2\n"))
    assert log.step.tolist() == [0, 1, 3]
    assert not math.isfinite(log.loss[1])


@pytest.mark.parametrize(
    ("header", "row", "step", "loss", "evaluation"),
    [
        ("iteration,train/loss,val/loss", "4,1.5,1.6", 4, 1.5, 1.6),
        ("global_step,training_loss,validation_loss", "4,1.5,1.6", 4, 1.5, 1.6),
        ("Step,Train Loss,Valid Loss", "4,1.5,1.6", 4, 1.5, 1.6),
        ("step,trainLoss,valLoss", "4,1.5,1.6", 4, 1.5, 1.6),
        ("epoch,loss,val_loss,accuracy,val_accuracy", "4,1.5,1.6,0.5,0.6", 4, 1.5, 1.6),
        ("epoch,step,train_loss_step,train_loss_epoch,val_loss", "0,4,1.5,7,1.6", 4, 1.5, 1.6),
        ("_step,_timestamp,train.loss,eval.loss", "4,1.7e9,1.5,1.6", 4, 1.5, 1.6),
        ("step,outcome_train_loss,outcome_val_loss", "4,1.5,1.6", 4, 1.5, 1.6),
        ("step,loss_scale,loss,eval_loss", "4,65536,1.5,1.6", 4, 1.5, 1.6),
    ],
)
def test_columns_are_known_by_name(
    tmp_path: Path, header: str, row: str, step: float, loss: float, evaluation: float
):
    """The names that frameworks and people use say what a column is."""
    log = read(written(tmp_path, f"{header}\n{row}\n"))
    assert (log.step.tolist(), log.loss.tolist(), log.evaluations.loss.tolist()) == (
        [step],
        [loss],
        [evaluation],
    )


def test_columns_can_be_told(tmp_path: Path):
    """Options win over names, for every role."""
    path = written(tmp_path, "a,b,c,d,e,loss\n1,2,0.1,4,60,9\n2,1,0.2,3,120,9\n")
    log = read(path, step="a", loss="b", learning_rate="c", evaluation_loss="d", time="e")
    assert (log.step.tolist(), log.loss.tolist(), log.learning_rate.tolist()) == ([1, 2], [2, 1], [0.1, 0.2])
    assert (log.evaluations.loss.tolist(), log.wall_time.tolist()) == ([4, 3], [60, 120])


def test_telling_the_epoch_alone_asks_for_that_axis(tmp_path: Path):
    """`--epoch` without `--step` puts the verdict on epochs."""
    log = read(written(tmp_path, "step,epoch,loss\n10,1,2\n20,2,1\n"), epoch="epoch")
    assert (log.axis, log.step.tolist()) == ("epoch", [1, 2])


@pytest.mark.parametrize("name", ["run.tsv", "run.tsv.gz", "run.csv"])
def test_the_delimiter_is_found(tmp_path: Path, name: str):
    """Tabs separate cells too, whatever the file is called."""
    log = read(written(tmp_path, "step\tloss\n1\t2.5\n", name))
    assert log.loss.tolist() == [2.5]
    assert log.name == "run"


def test_a_decimal_comma_is_understood_between_semicolons(tmp_path: Path):
    """Spreadsheets of half the world write 2,5."""
    assert read(written(tmp_path, "step;loss\n1;2,5\n2;1,5\n")).loss.tolist() == [2.5, 1.5]


def test_a_byte_order_mark_and_a_commented_header_are_no_obstacle(tmp_path: Path):
    """Excel writes the one, numpy's savetxt the other."""
    path = tmp_path / "run.csv"
    path.write_bytes(b"\xef\xbb\xbf# step,loss\n1,2.5\n")
    assert read(path).loss.tolist() == [2.5]


def test_a_header_repeated_by_a_resumed_job_is_skipped(tmp_path: Path):
    """Appending to a log writes its header again."""
    log = read(written(tmp_path, "step,loss\n1,3\nstep,loss\n2,2\n"))
    assert log.loss.tolist() == [3, 2]
    assert "repeated header" in log.notes[0]


def test_a_row_cut_off_by_a_crash_counts_for_what_it_holds(tmp_path: Path):
    """The last line of a killed job is short."""
    assert read(written(tmp_path, "step,loss,lr\n1,3,0.1\n2,2")).loss.tolist() == [3, 2]


def test_times_may_be_dates_or_milliseconds(tmp_path: Path):
    """Wall time is in seconds, whatever it was written in."""
    dates = read(
        written(tmp_path, "step,loss,timestamp\n1,3,2024-05-01T10:00:00Z\n2,2,2024-05-01 10:01:00\n")
    )
    assert dates.wall_time[1] - dates.wall_time[0] == 60
    milliseconds = read(written(tmp_path, "step,loss,timestamp\n1,3,1714557600000\n2,2,1714557660000\n"))
    assert milliseconds.wall_time[1] - milliseconds.wall_time[0] == 60


def test_a_file_of_pandas_size_reads_like_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both readers see the same values, empty cells, NaN, dates and repeated headers."""
    text = (
        "step,loss,eval_loss,timestamp,note\n0,3,,2024-05-01T10:00:00Z,a\n1,nan,,2024-05-01T10:00:01Z,b\n"
        "step,loss,eval_loss,timestamp,note\n2,,2.5,2024-05-01T10:00:02Z,\n3,2,,2024-05-01T10:00:03Z,c\n"
    )
    path = written(tmp_path, text)
    small = read(path)
    monkeypatch.setattr(delimited, "_SMALL_BYTES", 0)
    monkeypatch.setattr(delimited, "_CHUNK_ROWS", 2)
    large = read(path)
    assert str(large) == str(small)
    assert large.step.tolist() == [0, 1, 3]


@pytest.mark.parametrize("small_bytes", [0, 1_000_000])
def test_text_among_the_numbers_names_file_line_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int
):
    """The message leads to the cell."""
    monkeypatch.setattr(delimited, "_SMALL_BYTES", small_bytes)
    path = written(tmp_path, "step,loss\n1,3\n2,oops\n")
    with pytest.raises(LogError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: line 3, column 'loss': 'oops' is not a number"


@pytest.mark.parametrize("small_bytes", [0, 1_000_000])
def test_a_comment_that_says_nothing_is_no_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int
):
    """The names come after it; when nothing does, the file is no log."""
    monkeypatch.setattr(delimited, "_SMALL_BYTES", small_bytes)
    assert read(written(tmp_path, "#\n# \nstep,loss\n1,3\n2,2\n")).step.tolist() == [1, 2]
    for text in ("#\n", "#\n# #\n\n"):
        with pytest.raises(LogError):
            read(written(tmp_path, text))


@pytest.mark.parametrize("small_bytes", [0, 1_000_000])
def test_a_row_with_too_many_cells_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int
):
    """Cells without a name are not guessed at."""
    monkeypatch.setattr(delimited, "_SMALL_BYTES", small_bytes)
    with pytest.raises(LogError, match="line 3"):
        read(written(tmp_path, "step,loss\n1,3\n2,1,4\n"))


def test_text_in_a_column_of_no_importance_is_passed_over(tmp_path: Path):
    """A learning rate that cannot be read costs the learning rate, not the verdict."""
    log = read(written(tmp_path, "step,loss,lr\n1,3,warmup\n2,2,0.1\n"))
    assert log.loss.tolist() == [3, 2]
    assert all(map(math.isnan, log.learning_rate))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("step,loss\n", "no rows after it"),
        ("1,2\n2,1\n", "the first line holds numbers"),
        ("step,reward\n1,2\n", r"no loss column found; name it with --loss \(columns: step, reward\)"),
        ("step,loss\n1,\n2,\n", "column 'loss' holds no values"),
        (
            "step,gan_g_loss,gan_d_loss\n1,2,3\n",
            r"more than one column may be the loss \(gan_g_loss, gan_d_loss\)",
        ),
    ],
)
def test_a_file_that_holds_no_log_says_why(tmp_path: Path, text: str, says: str):
    """One clear sentence that names the file."""
    path = written(tmp_path, text)
    with pytest.raises(LogError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("option", ["loss", "step", "epoch", "learning_rate", "evaluation_loss", "time"])
def test_a_told_column_that_is_not_there_is_named(tmp_path: Path, option: str):
    """A typing error is not silently replaced by a guess."""
    with pytest.raises(LogError, match=r"column .typo. .* is not there; there are: step, loss"):
        read(written(tmp_path, "step,loss\n1,2\n"), **{option: "typo"})


def test_other_kinds_of_files_are_no_logs(tmp_path: Path):
    """Binary data, another encoding, and broken compression each have their sentence."""
    (tmp_path / "weights.csv").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "latin.csv").write_bytes("step,loss,größe\n1,2,3\n".encode("latin-1"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"step,loss\n" + b"1,2\n" * 1000)[:40])
    (tmp_path / "fake.csv.gz").write_bytes(b"step,loss\n1,2\n")
    for name, says in (
        ("weights.csv", "a binary file"),
        ("latin.csv", "not UTF-8"),
        ("cut.csv.gz", "damaged or cut off"),
        ("fake.csv.gz", "damaged or cut off"),
    ):
        with pytest.raises(LogError, match=says):
            read(tmp_path / name)


def test_prose_is_not_a_log(tmp_path: Path):
    """A text file without columns is of no known kind."""
    path = tmp_path / "notes.txt"
    path.write_text("It trained well.\n")
    with pytest.raises(NotALogError, match="not a training log of a known kind"):
        read(path)


def test_a_large_file_without_the_column_asked_for(tmp_path, monkeypatch):
    """It is refused as a small one is; found by fuzzing."""
    monkeypatch.setattr(delimited, "_SMALL_BYTES", 0)
    path = tmp_path / "run.csv"
    path.write_text("step,train_loss\n1,2\n2,1\n")
    with pytest.raises(LogError, match=r"column 'cost' \(--loss\) is not there"):
        find_logs(path)[0].read(Selection(loss="cost"))
