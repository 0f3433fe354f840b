"""Snapshots: the same future, bit for bit; and bytes that are no snapshot are refused."""

from __future__ import annotations

import gzip
import itertools
import struct
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stallwatch.detector.analysis import AnalysisConfig, RunAnalysis
from stallwatch.detector.analysis.align import AlignConfig
from stallwatch.detector.checks import CheckConfigs
from stallwatch.detector.checks.straggler import StragglerConfig
from stallwatch.detector.core.inputs import EvaluationPoint, Event, Phase, RankBatch
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.engine.migrations import FORMAT, MIGRATIONS
from stallwatch.detector.engine.recording import read_recording
from stallwatch.detector.engine.snapshot import NewerSnapshotError, SnapshotError, accepted, decode, encode
from support.simulation import START, Job, attach, beat_all
from support.snapshots import of_format, sealed

FIXTURES = Path(__file__).parents[2] / "data" / "snapshots"

HEADER_BYTES = struct.calcsize(">10sHQ32s")


def faulty_job():
    """A job with a bypass, a straggler, a loss that turns, samples and all."""

    def bypass(columns):
        rows = (columns.step >= 60) & (columns.step < 90)
        columns.gradient_fingerprint[rows, 1] += 1

    def slow(columns):
        columns.input_seconds[columns.step >= 120, 2] += 0.2

    def rise(columns):
        columns.loss_sum[columns.step >= 200] *= 1.5

    return Job(steps=300, batch_steps=7, faults=(bypass, slow, rise))


def inputs(job):
    """Everything that happens to its analysis, as calls."""
    calls = [lambda a, rank=rank: a.hello(START, job.hello(rank)) for rank in range(job.ranks)]
    for since, rank, batch in job.batches():
        now = START + since
        calls.append(
            lambda a, now=now, rank=rank, batch=batch: a.batch(now, rank, job.incarnation + rank, batch)
        )
        if rank == 0:
            extra = RankBatch(
                sequence=10_000 + batch.sequence,
                evaluations=(EvaluationPoint(int(batch.steps.step[-1]), 2.0, 8.0, {"accuracy": 0.4}),),
                events=(Event(int(batch.steps.step[-1]) + 1, "note", "something"),),
            )
            if batch.sequence % 9 == 0:
                calls.append(lambda a, now=now, extra=extra: a.batch(now, 3, 7, extra))
            calls.append(lambda a, now=now: beat_all(a, job, now, Phase.FORWARD))
            calls.append(lambda a, now=now: a.tick(now))
    end = START + since
    calls.append(lambda a: a.disconnect(end + 1, 3, job.incarnation + 3, "reset"))
    for second in range(1, 60):
        phases = {0: Phase.SYNC, 1: Phase.SYNC, 2: Phase.INPUT, 3: Phase.SYNC}
        calls.append(
            lambda a, at=end + second, p=phases: beat_all(a, job, at, p, last_step=299, ranks=(0, 1, 2))
        )
        calls.append(lambda a, at=end + second: a.tick(at))
    return calls


def shown(analysis):
    """All that comes out of an analysis."""
    return (
        repr(analysis.view()),
        repr(analysis.ranks()),
        repr(analysis.findings()),
        [analysis.series(name, None, None, 40) for name in analysis.series_names()],
        analysis.failures,
    )


def test_a_run_that_is_restored_again_and_again_ends_the_same():
    """Encoded and decoded after every hundredth input, an analysis ends with the same findings, views and bytes."""
    calls = inputs(faulty_job())
    whole, pieces = RunAnalysis("job"), RunAnalysis("job")
    for call in calls:
        call(whole)
    told = []
    for low, high in itertools.pairwise([*range(0, len(calls), 97), len(calls)]):
        pieces = decode(encode(pieces))
        for call in calls[low:high]:
            call(pieces)
        told += [each.id for each in pieces.changes()]
    assert shown(whole) == shown(pieces)
    assert {each.kind for each in whole.findings()} >= {"missing_gradient_sync", "straggler", "rank_lost"}
    whole.changes()
    assert encode(whole) == encode(pieces)
    assert set(told) == {each.id for each in whole.findings()}


def test_a_snapshot_changes_nothing_in_what_was_encoded():
    """The analysis goes on with the same bytes to come."""
    analysis = RunAnalysis("job")
    for call in inputs(faulty_job())[:200]:
        call(analysis)
    assert encode(analysis) == encode(analysis)
    assert encode(decode(encode(analysis))) == encode(analysis)


@pytest.fixture(scope="module")
def data():
    """A snapshot."""
    job = Job(steps=30)
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    for since, rank, batch in job.batches():
        analysis.batch(START + since, rank, job.incarnation + rank, batch)
    return encode(analysis)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_torn_snapshot_is_refused(data, share):
    """Part of a file."""
    with pytest.raises(SnapshotError, match=r"torn|at least"):
        decode(data[: int(share * len(data))])


def test_every_flipped_bit_is_noticed(data):
    """Wherever a bit flips, header or body."""
    for position in [*range(60), *range(60, len(data), len(data) // 50)]:
        spoiled = bytearray(data)
        spoiled[position] ^= 1
        with pytest.raises(SnapshotError):
            decode(bytes(spoiled))


def test_another_version_is_refused(data):
    """The message names both versions."""
    with pytest.raises(
        NewerSnapshotError, match=f"format 99, which a newer .* reads format {FORMAT} and before"
    ):
        decode(of_format(99, data))
    with pytest.raises(SnapshotError, match=f"format 1; this version reads format 2 to {FORMAT}"):
        decode(of_format(1, data))


def test_a_damaged_snapshot_of_a_newer_version_is_damaged(data):
    """It is not kept for a version that could not read it either."""
    later = bytearray(of_format(99, data))
    later[-7] ^= 1
    with pytest.raises(SnapshotError, match="corrupt") as caught:
        decode(bytes(later))
    assert not isinstance(caught.value, NewerSnapshotError)


def test_a_field_with_a_default_needs_no_migration(data):
    """What an older version did not write gets its default; what a newer one wrote beside it is not missed."""
    body = msgspec.msgpack.decode(data[52:])
    del body["state"]["phase_seconds"]
    body["state"]["of_a_newer_version"] = {"a": 1}
    body["of_a_newer_version"] = [1, 2]
    analysis = decode(sealed(FORMAT, msgspec.msgpack.encode(body)))
    assert analysis.state.phase_seconds == RunAnalysis("job").state.phase_seconds
    assert analysis.state.step == decode(data).state.step


def fixture(name):
    """A committed file."""
    return gzip.decompress((FIXTURES / name).read_bytes())


@pytest.fixture(scope="module", params=sorted(MIGRATIONS))
def earlier(request, tmp_path_factory):
    """A snapshot of an earlier format, the inputs of the whole job, and how many of them are in the snapshot."""
    recording = tmp_path_factory.mktemp("recording") / "inputs"
    recording.write_bytes(fixture(f"format-{request.param}.inputs.gz"))
    inputs = list(read_recording(recording))
    return fixture(f"format-{request.param}.snapshot.gz"), inputs, int(0.7 * len(inputs))


@pytest.mark.parametrize(
    "array",
    [
        {"dtype": ",", "shape": [2], "data": b"0" * 16},
        {"dtype": "|O", "shape": [2], "data": b"0" * 16},
        {"dtype": "<f8", "shape": [2], "data": np.array([np.inf, 0.0]).tobytes()},
        {"dtype": "<i8", "shape": [3], "data": b"0" * 16},
        {"dtype": "<i8"},
    ],
)
def test_an_earlier_format_with_arrays_that_are_none_is_refused(earlier, array):
    """By the one error that says so."""
    old, _inputs, _taken = earlier
    body = msgspec.msgpack.decode(old[HEADER_BYTES:])
    body["state"]["ranks"]["last_received"] = array
    with pytest.raises(SnapshotError, match="cannot be migrated"):
        decode(sealed(struct.unpack_from(">H", old, 10)[0], msgspec.msgpack.encode(body)))


def test_a_snapshot_of_an_earlier_format_goes_on(earlier):
    """As an analysis does that this version has made from the beginning, but for where data was missing before."""
    old, inputs, taken = earlier
    assert struct.unpack_from(">H", old, 10)[0] < FORMAT
    migrated, twin = decode(old), RunAnalysis("scripted")
    assert migrated.accepted_sequence(0, inputs[0].incarnation) == 18
    assert accepted(old) == migrated.state.ledger
    for one in inputs[:taken]:
        apply(twin, one)
    before = twin.view()
    for one in inputs[taken:]:
        apply(migrated, one)
        apply(twin, one)
    after = twin.view()
    assert migrated.view().unplaced_steps == before.steps_missing == 30
    # What agents take was not measured then, nor how often they sample: both are known from the next heartbeats on.
    for analysis in (migrated, twin):
        analysis.state.ranks.agent_share[:] = np.nan
        analysis.state.ranks.sample_period[:] = 0
    assert shown(replaced(migrated, gaps=after.gaps)) == shown(replaced(twin))
    assert (len(migrated.state.gaps.gaps), len(after.gaps)) == (0, 2)
    # From here on it is a snapshot of today's format, and notices what is missing.
    again = decode(encode(migrated))
    assert encode(again) == encode(migrated)


def test_what_is_missing_after_a_migration_is_noticed(earlier):
    """The first step that is passed over too."""
    old, inputs, taken = earlier
    migrated = decode(old)
    skipped = next(n for n in range(taken, len(inputs)) if inputs[n].WhichOneof("input") == "batch")
    for one in inputs[taken:skipped] + inputs[skipped + 1 :]:
        apply(migrated, one)
    (gap,) = migrated.view().gaps
    assert (gap.ranks, gap.steps) == ((inputs[skipped].rank,), 10)


class replaced:  # noqa: N801  reads like dataclasses.replace
    """An analysis as it shows itself, with gaps that are not its own."""

    def __init__(self, analysis, **fields):
        self._analysis, self._fields = analysis, {"unplaced_steps": 0, **fields}

    def view(self):
        """Its view, with those."""
        return replace(self._analysis.view(), **self._fields)

    def __getattr__(self, name):
        return getattr(self._analysis, name)


@pytest.mark.parametrize("noise", [b"", b"nonsense", bytes(1000)])
def test_other_bytes_are_refused(noise):
    """Anything else."""
    with pytest.raises(SnapshotError):
        decode(noise)


def test_settings_are_those_of_the_restorer(data):
    """A snapshot holds no settings: thresholds and switched-off checks are taken from the present configuration."""
    config = AnalysisConfig(
        align=AlignConfig(late_seconds=3.0),
        checks=CheckConfigs(straggler=StragglerConfig(z=9.0)),
        disabled=("plateau",),
    )
    analysis = decode(data, config)
    assert analysis.config is config
    assert analysis.pipeline.checks["straggler"].config.z == 9.0
    assert "plateau" not in analysis.pipeline.checks
    again = decode(encode(analysis))
    assert again.pipeline.checks["plateau"] is not None


def test_an_array_of_a_type_that_is_none_is_refused(data):
    """Numpy takes whole expressions for a type; found by fuzzing."""
    body = msgspec.msgpack.decode(data[HEADER_BYTES:])
    altered = 0

    def alter(value):
        nonlocal altered
        if isinstance(value, dict):
            if "dtype" in value:
                value["dtype"] = "(1,"
                altered += 1
            for each in value.values():
                alter(each)
        elif isinstance(value, list):
            for each in value:
                alter(each)

    alter(body)
    assert altered
    with pytest.raises(SnapshotError, match="none of ours"):
        decode(sealed(FORMAT, msgspec.msgpack.encode(body)))
