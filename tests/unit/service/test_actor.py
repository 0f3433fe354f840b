"""The analyzer's life without Ray around it: exactly once, whatever dies when."""

from __future__ import annotations

import sqlite3

import pytest

from stallwatch.detector.engine.actor import RunAnalyzer
from stallwatch.detector.engine.messages import AnalyzerSettings
from stallwatch.detector.engine.migrations import FORMAT
from stallwatch.detector.engine.recording import recording_path
from stallwatch.detector.engine.replay import replay
from stallwatch.detector.store import Store, sqlite_url
from stallwatch.v1 import telemetry_pb2 as pb
from support.analyzer_inputs import INCARNATION, START, a_run, item
from support.rank import hello, steps
from support.snapshots import of_format

RUN = "team/run:1"


@pytest.fixture
def settings(tmp_path):
    """A store of its own, and a recording."""
    url = sqlite_url(tmp_path)
    store = Store(url)
    store.prepare()
    store.close()
    return AnalyzerSettings(url, snapshot_seconds=1e-6, record_directory=str(tmp_path / "recordings"))


def feed(analyzer: RunAnalyzer, *inputs):
    """Apply inputs."""
    return analyzer.ingest(analyzer.generation, [one.SerializeToString() for one in inputs])


def greet() -> object:
    """Rank 0 of one."""
    return item(START, hello=hello(RUN))


def batch(number: int) -> object:
    """Ten steps; the first batch has number 1."""
    return item(START + number, batch=pb.Batch(sequence=number, steps=steps(10 * number - 10, 10)))


def test_what_is_accepted_becomes_durable_at_the_second_snapshot(settings):
    """Accepted at once, durable when two snapshots hold it; the second is taken though nothing came in between."""
    analyzer = RunAnalyzer(RUN, settings)
    result = feed(analyzer, greet(), batch(1), batch(2))
    assert [(one.accepted, one.durable) for one in result.progress] == [(2, 0)]
    assert analyzer.flush().durable == ()
    assert [(one.accepted, one.durable) for one in analyzer.flush().durable] == [(2, 2)]
    again = analyzer.flush()
    assert again.snapshots == 2
    # Who asks later is told as well, for a while.
    assert [one.durable for one in again.durable] == [2]


def test_a_goodbye_is_durable_at_the_next_poll(settings):
    """Its agent waits for it, and the training for its agent: two snapshots at once."""
    analyzer = RunAnalyzer(RUN, settings)
    feed(analyzer, greet(), batch(1))
    analyzer.flush()
    result = feed(analyzer, batch(2), item(START + 3, goodbye=pb.Goodbye(reason="finished", last_step=19)))
    assert not result.progress[0].parted
    (parted,) = analyzer.flush().durable
    assert (parted.accepted, parted.durable, parted.parted) == (2, 2, True)
    assert RunAnalyzer(RUN, settings).poll(START + 5).view.state == "finished"


def test_a_restarted_analyzer_counts_every_step_once(settings):
    """What was applied after the snapshot is forgotten with it, is sent again, and is counted once."""
    first = RunAnalyzer(RUN, settings)
    feed(first, greet(), batch(1), batch(2))
    first.flush()
    first.flush()
    feed(first, batch(3))

    second = RunAnalyzer(RUN, settings)
    assert second.generation != first.generation
    assert feed(second, greet()).progress[0].durable == 2
    result = feed(second, batch(1), batch(2), batch(3), batch(4))
    assert (result.duplicates, result.progress[0].accepted) == (2, 4)
    (rank,) = second.ranks()
    assert (rank.steps_received, rank.steps_missing) == (40, 0)


def test_inputs_for_another_generation_change_nothing(settings):
    """They were meant for state that is gone: applying them would leave a hole before them."""
    analyzer = RunAnalyzer(RUN, settings)
    result = analyzer.ingest("another", [batch(5).SerializeToString()])
    assert not result.applied
    assert result.generation == analyzer.generation
    assert analyzer.poll(START + 9).view.steps_received == 0


def spoil(tmp_path, damage, newest=0):
    """Damage one of the snapshots that are left; return its id."""
    with sqlite3.connect(tmp_path / "stallwatch.db") as database:
        number, data = database.execute(
            "SELECT id, data FROM stallwatch_snapshots ORDER BY id DESC LIMIT 1 OFFSET ?", (newest,)
        ).fetchone()
        database.execute("UPDATE stallwatch_snapshots SET data=? WHERE id=?", (damage(data), number))
    return number


DAMAGES = [lambda data: data[: len(data) // 2], lambda data: data[:-40] + bytes(40), lambda _data: b""]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_set_aside_and_the_one_before_is_used(settings, tmp_path, damage, caplog):
    """Torn or corrupt: the run goes on from the previous one, and agents have all that came after it."""
    analyzer = RunAnalyzer(RUN, settings)
    told = [feed(analyzer, greet()).progress[0].durable]
    for number in range(1, 6):
        feed(analyzer, batch(number))
        told += [one.durable for one in analyzer.flush().durable]
    # What the agent was told is safe it has forgotten.
    assert max(told) == 4
    number = spoil(tmp_path, damage)

    restored = RunAnalyzer(RUN, settings)
    progress = feed(restored, greet()).progress[0]
    assert (progress.accepted, progress.durable) == (4, 0)
    result = feed(restored, batch(5), batch(6))
    assert (result.duplicates, result.progress[0].accepted) == (0, 6)
    shown = restored.flush()
    (rank,) = restored.ranks()
    assert (rank.steps_received, rank.steps_missing, shown.view.gaps) == (60, 0, ())
    assert shown.snapshots_damaged == 1
    assert f"snapshot {number} is set aside" in caplog.text
    assert number not in [kept.id for kept in Store(settings.store_url).snapshots(RUN)]


def test_when_the_older_snapshot_is_damaged_agents_keep_what_it_held(settings, tmp_path):
    """Nothing is safe twice any more until the next snapshot is taken."""
    analyzer = RunAnalyzer(RUN, settings)
    feed(analyzer, greet())
    for number in range(1, 4):
        feed(analyzer, batch(number))
        analyzer.flush()
    spoil(tmp_path, DAMAGES[0], newest=1)
    restored = RunAnalyzer(RUN, settings)
    progress = feed(restored, greet()).progress[0]
    assert (progress.accepted, progress.durable) == (3, 0)
    assert [one.durable for one in restored.flush().durable] == [3]


def test_a_damaged_snapshot_that_cannot_be_set_aside_stops_nobody(settings, tmp_path, monkeypatch, caplog):
    """A store that can only be read; it is tried again at the next start."""
    analyzer = RunAnalyzer(RUN, settings)
    for number in range(1, 3):
        feed(analyzer, greet(), batch(number))
        analyzer.flush()
    spoil(tmp_path, DAMAGES[0])
    with sqlite3.connect(tmp_path / "stallwatch.db") as database:
        database.execute(
            "CREATE TRIGGER never BEFORE UPDATE ON stallwatch_snapshots BEGIN SELECT RAISE(ABORT, 'read only'); END"
        )
    restored = RunAnalyzer(RUN, settings)
    assert restored.poll(START + 3).view.steps_received == 10
    assert "stays: cannot write to" in caplog.text


def test_what_a_newer_version_saved_is_left_for_it(settings, tmp_path, caplog):
    """A detector that is rolled back begins anew beside it, says so, and does not destroy it; forward again, the latest counts."""
    analyzer = RunAnalyzer(RUN, settings)
    for number in range(1, 4):
        feed(analyzer, greet(), batch(number))
        analyzer.flush()
    kept = [one.id for one in Store(settings.store_url).snapshots(RUN)]
    newer = FORMAT + 1
    with sqlite3.connect(tmp_path / "stallwatch.db") as database:
        for number, data in database.execute("SELECT id, data FROM stallwatch_snapshots").fetchall():
            later = of_format(newer, data)
            database.execute(
                "UPDATE stallwatch_snapshots SET data=?, format=? WHERE id=?", (later, newer, number)
            )

    rolled_back = RunAnalyzer(RUN, settings)
    assert "a newer version has saved it" in caplog.text
    assert rolled_back.poll(START + 4).view.steps_received == 0
    for number in range(3, 9):
        feed(rolled_back, greet(), batch(number))
        rolled_back.flush()
    view = rolled_back.poll(START + 9).view
    assert [(gap.from_step, gap.to_step) for gap in view.gaps] == [(0, 19)]
    store = Store(settings.store_url)
    assert store.snapshots_after(RUN, FORMAT) == 1
    assert kept[0] in [one.id for one in store.snapshots(RUN)]
    # The version that is newer takes the latest of what it can read, which is all.
    assert store.snapshots(RUN, newer)[0].id == store.snapshots(RUN, FORMAT)[0].id


def test_a_store_that_fails_makes_nothing_durable(settings, tmp_path):
    """Agents keep what they have until a later snapshot is saved."""
    analyzer = RunAnalyzer(RUN, settings)
    feed(analyzer, greet(), batch(1))
    with sqlite3.connect(tmp_path / "stallwatch.db") as database:
        database.execute("ALTER TABLE stallwatch_snapshots RENAME TO away")
    failed = analyzer.flush()
    assert (failed.durable, failed.snapshot_failures) == ((), 1)
    with sqlite3.connect(tmp_path / "stallwatch.db") as database:
        database.execute("ALTER TABLE away RENAME TO stallwatch_snapshots")
    analyzer.flush()
    assert [one.durable for one in analyzer.flush().durable] == [1]


def test_a_replayed_recording_gives_the_same_findings(settings, tmp_path):
    """Bit for bit, for the analyzer records what it applies, in the order in which it does."""
    analyzer = RunAnalyzer(RUN, settings)
    for one in a_run(RUN, nan_at_batch=7):
        feed(analyzer, one)
        analyzer.poll(one.received_unix_seconds)
    shown = analyzer.flush()
    analyzer.close()
    replayed = replay(recording_path(tmp_path / "recordings", RUN))
    assert shown.findings
    assert replayed.findings() == shown.findings
    assert replayed.view() == shown.view


def test_a_recording_over_a_crash_is_what_was_applied_in_the_end(settings, tmp_path):
    """What the dead analyzer recorded and did not save is cut off, as it is forgotten."""
    inputs = list(a_run(RUN, nan_at_batch=7))
    first = RunAnalyzer(RUN, settings)
    for one in inputs[:20]:
        feed(first, one)
    first.poll(inputs[19].received_unix_seconds)
    for one in inputs[20:30]:
        feed(first, one)
    first._recorder.flush()

    second = RunAnalyzer(RUN, settings)
    for one in inputs[20:]:
        feed(second, one)
    shown = second.flush()
    second.close()
    replayed = replay(recording_path(tmp_path / "recordings", RUN))
    assert replayed.findings() == shown.findings
    assert replayed.view() == shown.view
    assert shown.view.duplicate_batches == 0


def test_time_never_goes_back_for_the_analysis(settings):
    """A gateway whose clock is behind does not confuse it."""
    analyzer = RunAnalyzer(RUN, settings)
    feed(analyzer, greet(), batch(5))
    feed(analyzer, item(START - 100, batch=pb.Batch(sequence=6)))
    assert analyzer.poll(START - 50).view.updated_at >= START + 5


def test_an_input_that_the_analysis_fails_on_is_counted(settings, monkeypatch):
    """A bug in a check must not end the watch over a run."""
    analyzer = RunAnalyzer(RUN, settings)
    feed(analyzer, greet())
    monkeypatch.setattr(type(analyzer._analysis), "heartbeat", lambda *_: 1 / 0)
    result = feed(analyzer, item(START + 1, heartbeat=pb.Heartbeat()), batch(2))
    assert (result.failures, result.progress[0].accepted) == (1, 2)


def test_findings_are_told_once_and_kept_in_the_store(settings):
    """As changes to whoever asks next, and in the history."""
    analyzer = RunAnalyzer(RUN, settings)
    changes = [one for each in a_run(RUN, nan_at_batch=3) for one in feed(analyzer, each).changes]
    analyzer.close()
    assert "non_finite" in {finding.kind for finding in changes}
    stored = Store(settings.store_url).findings(RUN)
    assert {finding.id for finding in stored} == {finding.id for finding in changes}
    assert Store(settings.store_url).run(RUN).state == "finished"
    assert INCARNATION
