"""Tables and records that people have and that were refused or misread: each kind once."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stallwatch.detector.importers import LogError, Selection, TrainingLog, find_logs
from stallwatch.detector.importers.columns import is_better_lower, is_loss, is_metric

TEXT = "step,loss\n" + "".join(f"{step},{3 - step / 10}\n" for step in range(10))


def read(path: Path, **selection: object) -> TrainingLog:
    (log,) = find_logs(path)[0].read(Selection(**selection))  # type: ignore[arg-type]
    return log


def test_several_losses_of_one_objective_are_added_up(tmp_path: Path):
    """As YOLO writes them, with a note; --loss may choose one or name several."""
    path = tmp_path / "results.csv"
    path.write_text(
        "                  epoch,      train/box_loss,      train/cls_loss,   metrics/mAP50(B),        val/box_loss,        val/cls_loss,              lr/pg0\n"
        + "".join(
            f"{e:>23},{3 - e / 10:>20},{2 - e / 10:>20},{0.1 * e:>20},{3.5:>20},{2.5:>20},{0.01:>20}\n"
            for e in range(1, 8)
        )
    )
    log = read(path)
    assert (log.axis, log.step.tolist()) == ("epoch", [1, 2, 3, 4, 5, 6, 7])
    assert log.loss[0] == pytest.approx(4.8)
    assert log.evaluations.loss.tolist() == [6.0] * 7
    assert "sum of train/box_loss, train/cls_loss" in log.notes[0]
    assert list(log.evaluations.metrics) == ["metrics/mAP50(B)"]
    assert read(path, loss="train/box_loss").loss[0] == pytest.approx(2.9)
    assert read(path, losses=("train/box_loss", "val/box_loss")).loss[0] == pytest.approx(6.4)


def test_mlflow_metric_folders(tmp_path: Path):
    """A file a metric; the folder, any folder above it and one of the files all lead to the run."""
    metrics = tmp_path / "mlruns" / "0" / "4f2a" / "metrics"
    (metrics / "train").mkdir(parents=True)
    lines = [f"{1700000000000 + 60000 * i} {3 - i / 10} {i * 100}" for i in range(9)]
    (metrics / "train" / "loss").write_text("\n".join([*lines, "17000000"]) + "\n")
    (metrics / "val_acc").write_text("1700000480000 0.5 800\n")
    for path in (tmp_path, metrics, metrics / "train" / "loss"):
        log = read(path)
        assert log.step.tolist() == [100 * i for i in range(9)]
        assert log.loss[1] == pytest.approx(2.9)
    log = read(tmp_path)
    assert log.evaluations.metrics["val_acc"].tolist() == [0.5]
    assert log.wall_time[1] - log.wall_time[0] == 60
    assert log.name == "4f2a"


def test_the_csv_that_tensorboards_page_saves(tmp_path: Path):
    """One curve without a name."""
    path = tmp_path / "run-train-tag-loss.csv"
    path.write_text(
        "Wall time,Step,Value\n" + "".join(f"{1.7e9 + i},{i * 5},{3 - i / 10}\n" for i in range(9))
    )
    log = read(path)
    assert (log.step.tolist()[:3], log.loss.tolist()[:2]) == ([0, 5, 10], [3, 2.9])
    assert "one curve without a name" in log.notes[0]


@pytest.mark.parametrize("key", ["train_losses", "losses", "loss_history", "training_losses", "running_loss"])
def test_plural_keys_and_lists(tmp_path: Path, key: str):
    """An object of lists, as people dump at the end of their script."""
    path = tmp_path / "history.json"
    path.write_text(json.dumps({key: [3, 2, 1], "val_losses": [4, 3, 2], "args": {"lr": 1}}))
    log = read(path)
    assert (log.loss.tolist(), log.evaluations.loss.tolist()) == ([3, 2, 1], [4, 3, 2])


@pytest.mark.parametrize(
    "name", ["num_loss_tokens", "loss_scale", "loss_mask_count", "best_loss", "loss_weight"]
)
def test_counts_and_scales_are_no_losses(tmp_path: Path, name: str):
    """Although the word is in them."""
    assert not is_loss(name)
    path = tmp_path / "run.csv"
    path.write_text(f"step,{name},lm_loss\n1,4096,3\n2,4096,2\n")
    assert read(path).loss.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        *(
            ("mAP", False),
            ("coco/bbox_mAP_50", False),
            ("AP50", False),
            ("test_acc1", False),
            ("rouge1", False),
        ),
        *(("eval_rougeL", False), ("BLEU", False), ("top-1", False), ("mIoU", False), ("val/f1", False)),
        *(("wer", True), ("perplexity", True), ("val_ppl", True), ("rmse", True), ("CER", True)),
    ],
)
def test_metrics_in_use_are_known_with_their_direction(name: str, lower: bool):
    """Better higher, or better lower."""
    assert is_metric(name)
    assert is_better_lower(name) is lower


@pytest.mark.parametrize(
    "name", ["mse", "train_mse", "cost", "elbo", "train/elbo", "perplexity", "cross_entropy", "objective"]
)
def test_where_nothing_is_called_a_loss_the_objective_is(tmp_path: Path, name: str):
    """A cost, an error or a bound that was trained on."""
    path = tmp_path / "run.csv"
    path.write_text(f"step,{name},lr\n1,3,0.1\n2,2,0.1\n")
    assert read(path).loss.tolist() == [3, 2]


def test_validation_rows_of_openmmlab_do_not_stretch_the_axis(tmp_path: Path):
    """There `iter` and `step` count something else than in rows of training."""
    rows: list[dict[str, object]] = []
    for epoch in (1, 2, 3):
        rows += [
            {"mode": "train", "epoch": epoch, "iter": i, "lr": 0.1, "loss": 3.0} for i in range(50, 501, 50)
        ]
        rows += [{"mode": "val", "epoch": epoch, "iter": 4952, "lr": 0.1, "bbox_mAP": 0.1 * epoch}]
    path = tmp_path / "run.log.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read(path)
    assert log.step.tolist() == list(range(50, 1501, 50))
    assert log.evaluations.step.tolist() == [500, 1000, 1500]
    rows = []
    for epoch in (1, 2, 3):
        rows += [
            {"lr": 0.1, "loss": 3.0, "epoch": epoch, "iter": i, "step": i}
            for i in range(500 * epoch - 450, 500 * epoch + 1, 50)
        ]
        rows += [{"coco/bbox_mAP": 0.1 * epoch, "data_time": 0.1, "step": epoch}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read(path)
    assert log.step.tolist() == list(range(50, 1501, 50))
    assert log.evaluations.step.tolist() == [500, 1000, 1500]
    assert not any("restart" in note for note in log.notes)


def test_an_index_without_a_name(tmp_path: Path):
    """R writes one cell more in each row than in the header; pandas leaves the name empty."""
    path = tmp_path / "run.csv"
    path.write_text('"step","loss"\n"1",10,3\n"2",20,2\n"3",30,1\n')
    assert read(path).step.tolist() == [10, 20, 30]
    path.write_text(",step,loss\n0,10,3\n1,20,2\n")
    assert read(path).step.tolist() == [10, 20]


def _zip(data: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run.csv", data)


COMPRESSORS: dict[str, Callable[[bytes, Path], object]] = {
    ".csv.gz": lambda data, path: path.write_bytes(gzip.compress(data)),
    ".csv.bz2": lambda data, path: path.write_bytes(bz2.compress(data)),
    ".csv.xz": lambda data, path: path.write_bytes(lzma.compress(data)),
    ".csv.zip": _zip,
    ".log": lambda data, path: path.write_bytes(gzip.compress(data)),
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files(tmp_path: Path, suffix: str):
    """By what they begin with; a damaged one is said to be."""
    path = tmp_path / f"run{suffix}"
    COMPRESSORS[suffix](TEXT.encode(), path)
    assert read(path).loss.size == 10
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(LogError, match="damaged or cut off"):
        read(path)


def test_zstandard(tmp_path: Path):
    """With the package; without it the message names it."""
    path = tmp_path / "run.csv.zst"
    # A frame with one raw block: magic, header without checksum, block header, content.
    data = TEXT.encode()
    block = (len(data) << 3 | 1).to_bytes(3, "little")
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + block + data)
    try:
        import zstandard  # noqa: F401
    except ImportError:
        with pytest.raises(LogError, match=r"pip install zstandard"):
            read(path)
    else:
        assert read(path).loss.size == 10


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("name", ["run.csv", "train.log"])
def test_other_encodings(tmp_path: Path, encoding: str, name: str):
    """What PowerShell redirects is UTF-16."""
    path = tmp_path / name
    text = TEXT if name == "run.csv" else "".join(f"step {i} loss {3 - i / 10}\r\n" for i in range(10))
    path.write_bytes(text.encode(encoding))
    assert read(path).loss.size == 10


@pytest.mark.parametrize("small_bytes", [0, 1_000_000])
def test_torn_lines_of_a_table_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int
):
    """Foreign text, a number that is none, too many cells; most lines must be good."""
    from stallwatch.detector.importers import delimited

    monkeypatch.setattr(delimited, "_SMALL_BYTES", small_bytes)
    path = tmp_path / "run.csv"
    path.write_text(TEXT + "Traceback (most recent call last):\n10,oops\n11,1.5,7\n12,1.25\n13,1.0")
    log = read(path)
    assert log.loss.tolist()[-2:] == [1.25, 1.0]
    assert log.loss.size == 12
    assert any("left out" in note for note in log.notes)


def test_zeros_and_strange_bytes_do_not_hide_a_log(tmp_path: Path):
    """A log that was emptied while it was written begins with zeros; a name may be in any encoding."""
    path = tmp_path / "train.log"
    path.write_bytes(
        b"\0" * 5000 + b"user \xff\xfe\xe9\n" + b"".join(b"step %d loss 2.5\n" % i for i in range(50))
    )
    assert read(path).loss.size == 50
    assert not math.isnan(read(path).loss[0])
