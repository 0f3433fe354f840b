"""TensorBoard event files, written by TensorBoard's own writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from stallwatch.detector.importers import LogError, TrainingLog, find_logs

pytest.importorskip("tensorboard")


def write(folder: Path, *events: tuple[str, int, float], tensors: bool = False, start: float = 1.7e9) -> Path:
    """An event file with these (tag, step, value), a second apart."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    writer = EventFileWriter(str(folder))
    for index, (tag, step, value) in enumerate(events):
        entry = Summary.Value(tag=tag, simple_value=value)
        if tensors:
            metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
            entry = Summary.Value(tag=tag, tensor=make_tensor_proto(value), metadata=metadata)
        writer.add_event(Event(wall_time=start + index, step=step, summary=Summary(value=[entry])))
    writer.close()
    return folder


def read(path: Path) -> list[TrainingLog]:
    return [log for source in find_logs(path) for log in source.read()]


@pytest.mark.parametrize("tensors", [False, True])
def test_scalars_of_a_run_folder(tmp_path: Path, tensors: bool):
    """PyTorch and Lightning write simple values, TensorFlow 2 tensors; both are scalars."""
    run = tmp_path / "version_3"
    write(
        run,
        ("train/loss", 0, 3),
        ("lr", 0, 0.5),
        ("train/loss", 10, 2),
        ("val/loss", 10, 2.5),
        tensors=tensors,
    )
    (log,) = read(run)
    assert (log.name, log.axis, log.step.tolist(), log.loss.tolist()) == (
        "version_3",
        "step",
        [0, 10],
        [3, 2],
    )
    assert log.learning_rate.tolist() == [0.5, 0.5]
    assert log.evaluations.loss.tolist() == [2.5]
    assert log.wall_time[1] - log.wall_time[0] > 0


def test_all_points_are_kept(tmp_path: Path):
    """TensorBoard's reader keeps 10,000 points by default; a verdict needs all of them."""
    write(tmp_path / "run", *(("loss", step, 1 / (step + 1)) for step in range(10_500)))
    (log,) = read(tmp_path)
    assert log.loss.size == 10_500


def test_a_folder_of_runs_is_as_many_logs(tmp_path: Path):
    """Each folder that holds event files is a run."""
    for name in ("a", "b"):
        write(tmp_path / name, ("loss", 0, 3), ("loss", 1, 2))
    assert [log.name for log in read(tmp_path)] == ["a", "b"]


def test_the_two_folders_of_keras_are_one_run(tmp_path: Path):
    """Its callback writes `epoch_loss` into `train` and into `validation`."""
    write(tmp_path / "mine" / "train", ("epoch_loss", 0, 3), ("epoch_loss", 1, 2))
    write(tmp_path / "mine" / "validation", ("epoch_loss", 0, 4), ("epoch_loss", 1, 3), start=1.7e9 + 10)
    (log,) = read(tmp_path)
    assert (log.name, log.loss.tolist(), log.evaluations.loss.tolist()) == ("mine", [3, 2], [4, 3])


def test_a_single_event_file(tmp_path: Path):
    """The file may be named itself."""
    write(tmp_path / "run", ("loss", 0, 3), ("loss", 1, 2))
    (file,) = (tmp_path / "run").iterdir()
    (log,) = read(file)
    assert (log.name, log.loss.tolist()) == ("run", [3, 2])


def test_a_not_finite_scalar_was_logged(tmp_path: Path):
    """NaN in the events is the training's own."""
    write(tmp_path / "run", ("loss", 0, 3), ("loss", 1, float("nan")), ("loss", 2, 2))
    (log,) = read(tmp_path)
    assert log.step.tolist() == [0, 1, 2]


def test_events_without_a_loss_say_which_tags_there_are(tmp_path: Path):
    """The way out is in the message."""
    write(tmp_path / "run", ("reward", 0, 3))
    with pytest.raises(LogError, match=r"no loss column found; name it with --loss \(columns: reward\)"):
        read(tmp_path / "run")


def test_an_event_file_without_scalars(tmp_path: Path):
    """A job that died at once leaves one."""
    write(tmp_path / "run")
    with pytest.raises(LogError, match="no scalars"):
        read(tmp_path / "run")


def test_a_file_that_only_looks_like_events(tmp_path: Path):
    """Damaged data is an error, not a traceback."""
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(b"not a record" * 20)
    with pytest.raises(LogError):
        read(path)


def test_a_tensor_that_is_no_scalar_is_refused(tmp_path: Path):
    """It says so of itself, and holds two values; found by fuzzing."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    tensor = TensorProto(dtype=1, float_val=[1.0, 2.0])
    value = Summary.Value(tag="loss", tensor=tensor, metadata=metadata)
    writer.add_event(Event(wall_time=1.7e9, step=1, summary=Summary(value=[value])))
    writer.close()
    with pytest.raises(LogError, match="TensorBoard cannot read it"):
        read(tmp_path)
