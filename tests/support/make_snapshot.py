"""Writes the snapshot, and the inputs around it, that later versions must be able to go on from.

`python tests/support/make_snapshot.py`, once for each snapshot format, before the format changes: what it writes to
tests/data/snapshots is committed and never written again.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.engine.recording import Recorder, recording_path
from support.scripted_job import scripted_job

DIRECTORY = Path(__file__).resolve().parents[1] / "data" / "snapshots"
RUN = "scripted"
LOST = ((0, 1, 4), (0, 1, 5), (1, 2, 3))


def write(share: float = 0.7) -> None:
    """The snapshot after this share of the inputs, and all of them as a recording."""
    data = b""
    inputs = list(scripted_job(RUN, batches=18, lost=LOST))
    analysis = RunAnalysis(RUN)
    recorder = Recorder(DIRECTORY, RUN, None, restored=False)
    for number, one in enumerate(inputs):
        if number == int(share * len(inputs)):
            data = snapshot.encode(analysis)
        recorder.write(one.SerializeToString(deterministic=True))
        apply(analysis, one)
    recorder.close()
    recorded = recording_path(DIRECTORY, RUN)
    version = snapshot._HEADER.unpack_from(data)[1]
    name = f"format-{version}"
    (DIRECTORY / f"{name}.snapshot.gz").write_bytes(gzip.compress(data, mtime=0))
    (DIRECTORY / f"{name}.inputs.gz").write_bytes(gzip.compress(recorded.read_bytes(), mtime=0))
    recorded.unlink()
    sys.stderr.write(f"{name}: {len(data)} bytes after {int(share * len(inputs))} of {len(inputs)} inputs\n")


if __name__ == "__main__":
    write()
