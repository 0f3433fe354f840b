"""Recordings: written in order, read back whole, torn ends left out."""

from __future__ import annotations

import pytest

from stallwatch.detector.engine.recording import Recorder, RecordingError, read_recording, recording_path
from stallwatch.detector.engine.replay import replay
from support.analyzer_inputs import a_run


def record(directory, run="a/b", inputs=None):
    """A recording, and what is in it."""
    inputs = list(inputs if inputs is not None else a_run(run))
    recorder = Recorder(directory, run, None, restored=False)
    for one in inputs:
        recorder.write(one.SerializeToString())
    recorder.close()
    return recording_path(directory, run), inputs


def test_a_recording_is_read_back_as_written(tmp_path):
    """All inputs, in order; a slash in the run's name makes no folder."""
    path, inputs = record(tmp_path)
    assert list(read_recording(path)) == inputs
    assert path.parent == tmp_path


def test_a_torn_end_is_left_out(tmp_path):
    """As a recorder that was killed leaves it."""
    path, inputs = record(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    assert list(read_recording(path)) == inputs[:-1]


def test_what_is_no_recording_is_refused(tmp_path):
    """In words that name the file."""
    path = tmp_path / "noise"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(RecordingError, match="noise is no recording"):
        list(read_recording(path))


def test_an_empty_recording_cannot_be_replayed(tmp_path):
    """For it names no run."""
    path, _ = record(tmp_path, inputs=[])
    with pytest.raises(RecordingError, match="names no run"):
        replay(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"\x04\xff\xff\xff\xff", "is damaged before byte 5"), (b"\xff\xff\xff\xff\x7f", None)],
)
def test_damaged_lengths_and_inputs(tmp_path, data, says):
    """Neither another error than the one that names the file, nor memory for what is not there; found by fuzzing."""
    path = tmp_path / "damaged"
    path.write_bytes(data)
    if says is None:
        assert list(read_recording(path)) == []
    else:
        with pytest.raises(RecordingError, match=says):
            list(read_recording(path))
